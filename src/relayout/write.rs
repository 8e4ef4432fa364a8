//! Writes the new file from its first byte to its last.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write},
};

use springhouse_fuse::sqlite::HEADER_BYTES;

use super::{
    Watch,
    error::{RelayoutError, damaged},
    page::{Page, put_u32, u32_at},
    plan::Plan,
    schema::SchemaPage,
    source::Source,
    walk::{Found, Owners},
    watch::Phase,
};

/// Written at once.
const BUFFER_BYTES: usize = 1 << 20;

pub(super) fn write(
    source: &Source,
    found: &Found,
    plan: &Plan,
    to: File,
    watch: &Watch,
) -> Result<(), RelayoutError> {
    let header = &source.header;
    watch.begin(Phase::Write, u64::from(plan.pages) * u64::from(header.page_bytes));
    let schema = plan.schema.pages(
        &found.schema,
        |root| plan.new_of(root),
        &plan.schema_interior,
        &plan.schema_leaves,
    );
    let schema: HashMap<u32, SchemaPage> = schema.into_iter().map(|page| (page.number, page)).collect();
    let mut writer = Writer { source, found, plan, schema, page: source.page_buffer(), links: Vec::new() };
    let mut to = BufWriter::with_capacity(BUFFER_BYTES, to);
    for number in 1..=plan.pages {
        writer.make(number)?;
        to.write_all(&writer.page).map_err(RelayoutError::io("writing the new file"))?;
        watch.step(u64::from(header.page_bytes))?;
    }
    to.flush().map_err(RelayoutError::io("writing the new file"))
}

struct Writer<'a> {
    source: &'a Source,
    found: &'a Found,
    plan: &'a Plan,
    schema: HashMap<u32, SchemaPage>,
    page: Vec<u8>,
    links: Vec<super::page::Link>,
}

impl Writer<'_> {
    /// Makes page `number` of the new file.
    fn make(&mut self, number: u32) -> Result<(), RelayoutError> {
        let header = &self.source.header;
        if let Some(page) = self.schema.get(&number) {
            self.page.copy_from_slice(&page.bytes);
            if number == 1 {
                let head = self.header();
                self.page[..HEADER_BYTES].copy_from_slice(&head);
            }
            return Ok(());
        }
        if header.is_fixed(number) {
            self.page.fill(0);
            if number != header.lock_page()
                && let Some(owners) = &self.found.owners
            {
                self.pointer_map(number, owners);
            }
            return Ok(());
        }
        self.copy(self.plan.old_of(number))
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut head = self.source.head;
        head[18..20].copy_from_slice(&[1, 1]);
        put_u32(&mut head, 28, self.plan.pages);
        head[32..40].fill(0); // no free pages
        if self.source.header.auto_vacuum {
            put_u32(&mut head, 52, self.plan.root_max);
        }
        // The page count is trusted only if the version that it is valid for is the file's.
        let version = u32_at(&head, 24);
        put_u32(&mut head, 92, version);
        head
    }

    /// Copies a page with the numbers on it changed.
    fn copy(&mut self, old: u32) -> Result<(), RelayoutError> {
        self.source.read(old, &mut self.page)?;
        if self.found.overflow.contains(old) {
            let next = u32_at(&self.page, 0);
            if next != 0 {
                let next = self.moved(old, next)?;
                put_u32(&mut self.page, 0, next);
            }
            return Ok(());
        }
        let mut links = std::mem::take(&mut self.links);
        Page::parse(&self.source.header, old, &self.page)?.links(&mut links)?;
        for link in &links {
            let new = self.moved(old, link.page)?;
            put_u32(&mut self.page, link.at, new);
        }
        self.links = links;
        Ok(())
    }

    fn moved(&self, on: u32, old: u32) -> Result<u32, RelayoutError> {
        match self.plan.new_of(old) {
            0 => Err(damaged(on, "changed while it was read")),
            new => Ok(new),
        }
    }

    fn pointer_map(&mut self, number: u32, owners: &Owners) {
        let end = number.saturating_add(self.source.header.map_entries()).min(self.plan.pages);
        for (i, page) in (number + 1..=end).enumerate() {
            let (role, owner) = match self.schema.get(&page) {
                Some(page) => (Some(page.role), page.owner),
                None => {
                    let (role, owner) = owners.of(self.plan.old_of(page));
                    (role, self.plan.new_of(owner))
                }
            };
            // None: the lock-byte page.
            if let Some(role) = role {
                self.page[5 * i] = role as u8;
                put_u32(&mut self.page, 5 * i + 1, owner);
            }
        }
    }
}
