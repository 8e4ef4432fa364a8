//! What a relayout changed.

use springhouse_fuse::sqlite::Header;

use super::{plan::Plan, walk::Found};

/// Pages of no use between two wanted ones are read over up to this: a round trip to the store takes longer
/// than to send so much.
const GAP_BYTES: u64 = 64 << 10;

/// Reads of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdCost {
    /// How many.
    pub reads: u64,
    /// Bytes of all together.
    pub bytes: u64,
}

/// What a relayout did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Size of a page in bytes.
    pub page_bytes: u32,
    /// Pages of the file that was read.
    pub pages_before: u32,
    /// Pages of the new file; fewer if there were free pages.
    pub pages_after: u32,
    /// Interior pages of all trees, page 1 not counted.
    pub interior_pages: u32,
    /// B-trees: tables and indexes, and the schema.
    pub trees: u32,
    /// What it costs, with nothing cached, to have the schema and all interior pages of the file that was
    /// read, and then one leaf: pages less than 64 KiB apart come in one read.
    pub cold_before: ColdCost,
    /// The same for the new file.
    pub cold_after: ColdCost,
}

impl Report {
    pub(super) fn new(header: &Header, found: &Found, plan: &Plan) -> Self {
        let before = found.schema_pages.iter().chain(&found.interior).copied().collect();
        let interior = found.interior.iter().map(|&page| plan.new_of(page));
        let schema = plan.schema_interior.iter().chain(&plan.schema_leaves).copied();
        let after = interior.chain(schema).chain([1]).collect();
        Self {
            page_bytes: header.page_bytes,
            pages_before: header.pages,
            pages_after: plan.pages,
            interior_pages: (found.interior.len() + plan.schema_interior.len()) as u32,
            trees: found.roots.len() as u32 + 1,
            cold_before: cost(before, header.page_bytes),
            cold_after: cost(after, header.page_bytes),
        }
    }
}

fn cost(mut pages: Vec<u32>, page_bytes: u32) -> ColdCost {
    pages.sort_unstable();
    let page_bytes = u64::from(page_bytes);
    // The leaf.
    let mut cost = ColdCost { reads: 1, bytes: page_bytes };
    let mut last = None;
    for page in pages.into_iter().map(u64::from) {
        match last.map(|last| page - last) {
            Some(distance) if (distance - 1) * page_bytes < GAP_BYTES => cost.bytes += distance * page_bytes,
            _ => {
                cost.reads += 1;
                cost.bytes += page_bytes;
            }
        }
        last = Some(page);
    }
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_come_together_and_far_ones_do_not() {
        let read = |reads: u64, bytes: u64| ColdCost { reads: reads + 1, bytes: bytes + 4096 };
        assert_eq!(cost(vec![1], 4096), read(1, 4096));
        assert_eq!(cost(vec![3, 1, 2], 4096), read(1, 3 * 4096));
        assert_eq!(cost(vec![1, 17], 4096), read(1, 17 * 4096), "15 pages between");
        assert_eq!(cost(vec![1, 18], 4096), read(2, 2 * 4096), "16 pages are 64 KiB");
    }
}
