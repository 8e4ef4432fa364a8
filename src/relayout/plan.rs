//! Which page gets which number.

use springhouse_fuse::sqlite::Header;

use super::{
    error::RelayoutError,
    record::Width,
    schema::SchemaTree,
    walk::{Found, Pages},
};

/// Numbers of all pages of the new file. Page 1 stays page 1.
#[derive(Debug)]
pub(super) struct Plan {
    /// Number of the last page.
    pub(super) pages: u32,
    /// New number by old number; 0: it is not copied (the schema, free pages).
    new_of: Vec<u32>,
    /// Old number by new number; 0: it is not copied.
    old_of: Vec<u32>,
    pub(super) schema: SchemaTree,
    /// Numbers of the schema's interior pages, and of its leaves with their chains, without page 1.
    pub(super) schema_interior: Vec<u32>,
    pub(super) schema_leaves: Vec<u32>,
    /// The largest root; 1 if there is none but the schema's.
    pub(super) root_max: u32,
}

impl Plan {
    pub(super) fn new(header: &Header, found: &Found) -> Result<Self, RelayoutError> {
        let mut width = Width::for_pages_up_to(1);
        loop {
            let plan = Self::with(header, found, width)?;
            let enough = Width::for_pages_up_to(plan.pages);
            // Wider numbers make more pages, never fewer roots' numbers: it ends at the widest.
            if enough <= width {
                return Ok(plan);
            }
            width = enough;
        }
    }

    fn with(header: &Header, found: &Found, width: Width) -> Result<Self, RelayoutError> {
        let schema = SchemaTree::new(&found.schema, width, header);
        let mut plan = Self {
            pages: 1,
            new_of: vec![0; header.pages as usize + 1],
            old_of: vec![0; 2],
            schema_interior: Vec::new(),
            schema_leaves: Vec::new(),
            root_max: 1,
            schema,
        };
        let mut first = Pages::new(0);
        if header.auto_vacuum {
            // SQLite takes for granted that the roots come before everything else: DROP TABLE moves the
            // page of the largest root number into the gap.
            first = Pages::new(header.pages);
            for &root in &found.roots {
                first.insert(root);
                plan.copy(header, root)?;
            }
        }
        let first = |page: &u32| header.auto_vacuum && first.contains(*page);
        for _ in 0..plan.schema.interior_pages() {
            let number = plan.next(header, 0)?;
            plan.schema_interior.push(number);
        }
        for &page in found.interior.iter().filter(|page| !first(page)) {
            plan.copy(header, page)?;
        }
        for _ in 0..plan.schema.leaf_pages() {
            let number = plan.next(header, 0)?;
            plan.schema_leaves.push(number);
        }
        for &page in found.rest.iter().filter(|page| !first(page)) {
            plan.copy(header, page)?;
        }
        plan.root_max = found.roots.iter().map(|&root| plan.new_of(root)).fold(1, u32::max);
        Ok(plan)
    }

    /// The new number of a page; 0 if it is not copied.
    pub(super) fn new_of(&self, old: u32) -> u32 {
        self.new_of.get(old as usize).copied().unwrap_or(0)
    }

    /// The page that becomes page `new`; 0 if none is copied there.
    pub(super) fn old_of(&self, new: u32) -> u32 {
        self.old_of[new as usize]
    }

    fn copy(&mut self, header: &Header, old: u32) -> Result<(), RelayoutError> {
        self.new_of[old as usize] = self.next(header, old)?;
        Ok(())
    }

    /// The next number that may hold content.
    fn next(&mut self, header: &Header, old: u32) -> Result<u32, RelayoutError> {
        loop {
            // SQLite's own largest page number.
            if self.pages >= u32::MAX - 1 {
                return Err(RelayoutError::Unfit("it has too many pages".into()));
            }
            self.pages += 1;
            if !header.is_fixed(self.pages) {
                self.old_of.push(old);
                return Ok(self.pages);
            }
            self.old_of.push(0);
        }
    }
}
