//! Finds every page of a database and the order in which they should lie.

use std::ops::Range;

use springhouse_fuse::sqlite::Header;

use super::{
    Watch,
    error::{RelayoutError, damaged},
    page::{Kind, Link, Page, To, u32_at},
    record::SchemaRecord,
    source::Source,
    watch::Phase,
};

/// Interior levels of a tree; SQLite's own cursors go no deeper.
const LEVELS_MAX: usize = 20;

/// Most bytes of all rows of the schema. SQLite holds them in memory whenever it opens the database.
const SCHEMA_BYTES_MAX: u64 = 256 << 20;

/// The schema's root.
const SCHEMA_ROOT: u32 = 1;

/// One bit for each page.
#[derive(Debug)]
pub(super) struct Pages(Vec<u64>);

impl Pages {
    pub(super) fn new(pages: u32) -> Self {
        Self(vec![0; pages as usize / 64 + 1])
    }

    /// `false`: it is in already.
    pub(super) fn insert(&mut self, page: u32) -> bool {
        let (word, bit) = (&mut self.0[page as usize / 64], 1 << (page % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    pub(super) fn contains(&self, page: u32) -> bool {
        self.0[page as usize / 64] & 1 << (page % 64) != 0
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// What a page is to the one that points to it, as pointer maps say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Root = 1,
    Free = 2,
    /// First of an overflow chain.
    ChainStart = 3,
    ChainMore = 4,
    Child = 5,
}

/// For each page its role and, but for a root, who points to it.
#[derive(Debug)]
pub(super) struct Owners(Vec<(Option<Role>, u32)>);

impl Owners {
    pub(super) fn of(&self, page: u32) -> (Option<Role>, u32) {
        self.0[page as usize]
    }
}

/// A row of `sqlite_schema`.
#[derive(Debug)]
pub(super) struct SchemaRow {
    pub(super) rowid: i64,
    pub(super) record: SchemaRecord,
}

/// The pages of a database, by their old numbers.
#[derive(Debug)]
pub(super) struct Found {
    /// All rows of the schema in order.
    pub(super) schema: Vec<SchemaRow>,
    /// Pages of the schema's tree with its overflow chains; they are not copied but built anew.
    pub(super) schema_pages: Vec<u32>,
    /// Roots of all other trees, in the schema's order.
    pub(super) roots: Vec<u32>,
    /// Interior pages of all other trees: tree by tree, level by level, each from left to right.
    pub(super) interior: Vec<u32>,
    /// Leaves of all other trees in key order, and where the overflow chains fit in.
    pub(super) rest: Vec<u32>,
    /// Pages of overflow chains.
    pub(super) overflow: Pages,
    /// With `auto_vacuum`.
    pub(super) owners: Option<Owners>,
}

/// Reads all b-tree pages of a database once and its interior pages twice.
pub(super) fn walk(source: &Source, watch: &Watch) -> Result<Found, RelayoutError> {
    let header = source.header;
    watch.begin(Phase::Walk, u64::from(header.pages) * u64::from(header.page_bytes));
    let mut walk = Walk {
        source,
        watch,
        seen: Pages::new(header.pages),
        page: source.page_buffer(),
        found: Found {
            schema: Vec::new(),
            schema_pages: Vec::new(),
            roots: Vec::new(),
            interior: Vec::new(),
            rest: Vec::new(),
            overflow: Pages::new(header.pages),
            owners: header.auto_vacuum.then(|| Owners(vec![(None, 0); header.pages as usize + 1])),
        },
    };
    walk.schema()?;
    let roots: Vec<u32> = walk.found.schema.iter().filter_map(|row| row.record.root).collect();
    for &root in &roots {
        walk.tree(root)?;
    }
    walk.found.roots = roots;
    walk.free_list()?;
    walk.is_all()?;
    Ok(walk.found)
}

struct Walk<'a> {
    source: &'a Source,
    watch: &'a Watch,
    seen: Pages,
    page: Vec<u8>,
    found: Found,
}

impl Walk<'_> {
    fn header(&self) -> &Header {
        &self.source.header
    }

    /// A page was found: it must be the first time.
    fn claim(&mut self, page: u32, role: Role, owner: u32) -> Result<(), RelayoutError> {
        if page == 0 || page > self.header().pages {
            return Err(damaged(owner, format!("points to page {page}, which does not exist")));
        }
        if self.header().is_fixed(page) || !self.seen.insert(page) {
            return Err(damaged(owner, format!("points to page {page}, which is in use elsewhere")));
        }
        if let Some(owners) = &mut self.found.owners {
            owners.0[page as usize] = (Some(role), owner);
        }
        self.watch.step(u64::from(self.header().page_bytes))
    }

    /// Reads a page: its kind and, into `links`, what it points to.
    fn load(&mut self, page: u32, links: &mut Vec<Link>) -> Result<Kind, RelayoutError> {
        self.source.read(page, &mut self.page)?;
        let parsed = Page::parse(&self.source.header, page, &self.page)?;
        parsed.links(links)?;
        Ok(parsed.kind)
    }

    /// Finds the interior pages of the tree at `root`, level by level: they go to `interior`, and what
    /// comes back is how many levels there are, and the kind of all of its leaves.
    fn levels(&mut self, root: u32) -> Result<(usize, Kind), RelayoutError> {
        self.claim(root, Role::Root, 0)?;
        let mut links = Vec::new();
        let mut level = vec![root];
        let mut tree = None;
        for depth in 0..=LEVELS_MAX {
            let mut below = Vec::new();
            for (i, &page) in level.iter().enumerate() {
                let kind = self.load(page, &mut links)?;
                let is_index = *tree.get_or_insert(kind.is_index);
                if kind.is_index != is_index {
                    return Err(damaged(page, "is of an index and of a table at once"));
                }
                // The first page tells what all of them must be; the leaves are looked at later.
                if kind.is_leaf && i == 0 {
                    return Ok((depth, kind));
                }
                if kind.is_leaf {
                    return Err(damaged(page, "is a leaf among interior pages"));
                }
                for link in links.iter().filter(|link| link.to == To::Child) {
                    self.claim(link.page, Role::Child, page)?;
                    below.push(link.page);
                }
            }
            self.found.interior.append(&mut level);
            level = below;
        }
        Err(damaged(root, format!("begins a tree of more than {LEVELS_MAX} levels")))
    }

    fn tree(&mut self, root: u32) -> Result<(), RelayoutError> {
        let (levels, leaf) = self.levels(root)?;
        self.in_order(root, levels, leaf, &mut |_, _| Ok(()))
    }

    /// Goes through a tree in key order: its leaves and overflow chains go to `rest`, and `each_leaf` sees
    /// each leaf while `self.page` holds it.
    fn in_order(
        &mut self,
        page: u32,
        levels: usize,
        leaf: Kind,
        each_leaf: &mut dyn FnMut(&mut Self, u32) -> Result<(), RelayoutError>,
    ) -> Result<(), RelayoutError> {
        let mut links = Vec::new();
        let kind = self.load(page, &mut links)?;
        if kind != (Kind { is_leaf: levels == 0, ..leaf }) {
            return Err(damaged(page, "is not of the kind of its neighbours"));
        }
        if levels == 0 {
            self.found.rest.push(page);
            each_leaf(self, page)?;
        }
        for link in links {
            match link.to {
                To::Child => self.in_order(link.page, levels - 1, leaf, each_leaf)?,
                To::Chain(pages) => self.chain(page, link.page, pages)?,
            }
        }
        Ok(())
    }

    fn chain(&mut self, owner: u32, first: u32, pages: u32) -> Result<(), RelayoutError> {
        let (mut page, mut before) = (first, owner);
        for i in 0..pages {
            self.claim(page, if i == 0 { Role::ChainStart } else { Role::ChainMore }, before)?;
            self.found.overflow.insert(page);
            self.found.rest.push(page);
            before = page;
            page = self.source.next_of(page)?;
        }
        if page != 0 {
            return Err(damaged(before, "an overflow chain is longer than its payload"));
        }
        Ok(())
    }

    /// Reads the schema's tree; its pages are kept apart.
    fn schema(&mut self) -> Result<(), RelayoutError> {
        let (levels, leaf) = self.levels(SCHEMA_ROOT)?;
        if leaf.is_index {
            return Err(damaged(SCHEMA_ROOT, "is not of a table"));
        }
        let mut bytes = 0;
        self.in_order(SCHEMA_ROOT, levels, leaf, &mut |walk, page| walk.schema_leaf(page, &mut bytes))?;
        let found = &mut self.found;
        found.schema_pages = found.interior.drain(..).chain(found.rest.drain(..)).collect();
        if found.schema.windows(2).any(|pair| pair[0].rowid >= pair[1].rowid) {
            return Err(RelayoutError::Damaged("the rows of the schema are not in order".into()));
        }
        Ok(())
    }

    fn schema_leaf(&mut self, number: u32, bytes: &mut u64) -> Result<(), RelayoutError> {
        let leaf = std::mem::take(&mut self.page);
        let page = Page::parse(&self.source.header, number, &leaf)?;
        for row in page.rows() {
            let row = row?;
            *bytes = bytes.saturating_add(row.payload);
            if *bytes > SCHEMA_BYTES_MAX {
                return Err(damaged(number, format!("the schema has more than {SCHEMA_BYTES_MAX} bytes")));
            }
            let mut payload = row.local.to_vec();
            if let Some(chain) = row.chain {
                self.chain_payload(chain.page, row.payload as usize, &mut payload)?;
            }
            let record = SchemaRecord::parse(payload)
                .ok_or_else(|| damaged(number, format!("row {} of the schema is none", row.rowid)))?;
            self.found.schema.push(SchemaRow { rowid: row.rowid, record });
        }
        self.page = leaf;
        Ok(())
    }

    /// Appends what an overflow chain holds until the payload has `len` bytes. Its pages are claimed
    /// afterwards; until then only `len` bounds how many are read.
    fn chain_payload(&self, first: u32, len: usize, payload: &mut Vec<u8>) -> Result<(), RelayoutError> {
        let usable = self.header().usable_bytes as usize;
        let (mut page, mut buffer) = (first, self.source.page_buffer());
        while payload.len() < len {
            self.watch.check()?;
            self.source.read(page, &mut buffer)?;
            page = u32_at(&buffer, 0);
            let here: Range<usize> = 4..usable.min(4 + len - payload.len());
            payload.extend_from_slice(&buffer[here]);
        }
        Ok(())
    }

    /// Claims the free pages, which the new file will not have.
    fn free_list(&mut self) -> Result<(), RelayoutError> {
        let number = |at: usize| u32_at(&self.source.head, at);
        let (mut trunk, count) = (number(32), number(36));
        let (mut before, mut free) = (SCHEMA_ROOT, 0_u64);
        while trunk != 0 {
            self.claim(trunk, Role::Free, before)?;
            self.source.read(trunk, &mut self.page)?;
            let leaves = u32_at(&self.page, 4) as usize;
            if leaves > self.header().usable_bytes as usize / 4 - 2 {
                return Err(damaged(trunk, format!("lists {leaves} free pages: they have no room on it")));
            }
            for i in 0..leaves {
                let page = u32_at(&self.page, 8 + 4 * i);
                self.claim(page, Role::Free, trunk)?;
            }
            free += 1 + leaves as u64;
            before = trunk;
            trunk = u32_at(&self.page, 0);
        }
        if free != u64::from(count) {
            return Err(RelayoutError::Damaged(format!("{free} pages are free, the header says {count}")));
        }
        Ok(())
    }

    /// Every page must have been found: what nobody points to may be somebody's lost rows.
    fn is_all(&self) -> Result<(), RelayoutError> {
        let header = self.header();
        let fixed = (1..=header.pages).filter(|&page| header.is_fixed(page)).count() as u64;
        let lost = u64::from(header.pages) - fixed - self.seen.count();
        if lost > 0 {
            return Err(RelayoutError::Damaged(format!("nothing points to {lost} of its pages")));
        }
        Ok(())
    }
}
