//! Ways through what is known of the trees: from leaf to leaf, and from a row to its leaf.

use super::{LEVELS_MAX, NodeId, TreeId, Trees};
use crate::sqlite::page::NO_ROWID;

/// A leaf's place in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sqlite) struct Place {
    pub(in crate::sqlite) tree: TreeId,
    node: NodeId,
    /// Which child of the node.
    child: usize,
}

/// Where a row's leaf is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sqlite) enum Found {
    /// This page.
    Leaf(u32),
    /// This interior page has to be learnt first.
    Missing(u32),
    /// It cannot be told.
    Unknown,
}

impl Trees {
    /// Where a leaf is in its tree; `None` while it is not known to be one.
    pub(in crate::sqlite) fn place(&self, page: u32) -> Option<Place> {
        let &node = self.parents.get(&page)?;
        let parent = &self.nodes[node as usize];
        if self.trees[parent.tree].interior_levels != Some(parent.level + 1) {
            return None;
        }
        let child = parent.children.iter().position(|&child| child == page)?;
        Some(Place { tree: parent.tree, node, child })
    }

    /// The page at a place.
    pub(in crate::sqlite) fn page_at(&self, place: Place) -> u32 {
        self.nodes[place.node as usize].children[place.child]
    }

    /// The leaf after (`forward`) or before `place`; `None` at the end of the tree or of what is known.
    pub(in crate::sqlite) fn neighbour(&self, place: Place, forward: bool) -> Option<Place> {
        let step = |child: usize, children: usize| {
            if forward { Some(child + 1).filter(|&next| next < children) } else { child.checked_sub(1) }
        };
        let mut node = &self.nodes[place.node as usize];
        if let Some(child) = step(place.child, node.children.len()) {
            return Some(Place { child, ..place });
        }
        // Up until there is a neighbour, then down along the nearer edge.
        let mut climbed = 0;
        let mut page = loop {
            let parent = &self.nodes[*self.parents.get(&node.page)? as usize];
            climbed += 1;
            let child = parent.children.iter().position(|&child| child == node.page)?;
            if let Some(next) = step(child, parent.children.len()) {
                break parent.children[next];
            }
            node = parent;
        };
        let mut id = *self.node_of.get(&page)?;
        for _ in 1..climbed {
            let children = &self.nodes[id as usize].children;
            page = if forward { *children.first()? } else { *children.last()? };
            id = *self.node_of.get(&page)?;
        }
        let children = self.nodes[id as usize].children.len();
        Some(Place { tree: place.tree, node: id, child: if forward { 0 } else { children.checked_sub(1)? } })
    }

    /// The rows that a table's leaf can hold: more than the first, up to the second; `None` of an index.
    pub(in crate::sqlite) fn rows_of(&self, place: Place) -> Option<(i64, i64)> {
        if self.trees[place.tree].is_index? {
            return None;
        }
        let (mut low, mut high) = (None, None);
        let (mut node, mut child) = (&self.nodes[place.node as usize], place.child);
        loop {
            if low.is_none() && child > 0 {
                low = node.rowids.get(child - 1).copied();
            }
            high = high.or_else(|| node.rowids.get(child).copied());
            let Some(&parent) = self.parents.get(&node.page) else { break };
            if low.is_some() && high.is_some() {
                break;
            }
            let parent = &self.nodes[parent as usize];
            child = parent.children.iter().position(|&child| child == node.page)?;
            node = parent;
        }
        Some((low.unwrap_or(i64::MIN), high.unwrap_or(i64::MAX)))
    }

    /// The row of the entry between an index's leaf and the next, which stands in an interior page.
    pub(in crate::sqlite) fn row_after(&self, place: Place) -> Option<i64> {
        let node = &self.nodes[place.node as usize];
        node.rowids.get(place.child).copied().filter(|&row| row != NO_ROWID)
    }

    /// The leaf of `table` that holds `rowid`.
    pub(in crate::sqlite) fn leaf_of(&self, table: TreeId, rowid: i64) -> Found {
        let tree = &self.trees[table];
        if tree.odd || tree.is_index == Some(true) {
            return Found::Unknown;
        }
        let mut page = tree.root;
        for level in 0..LEVELS_MAX {
            if tree.interior_levels == Some(level) {
                return Found::Leaf(page);
            }
            let Some(&id) = self.node_of.get(&page) else { return Found::Missing(page) };
            let node = &self.nodes[id as usize];
            let child = node.rowids.partition_point(|&separator| separator < rowid);
            page = node.children[child.min(node.children.len() - 1)];
        }
        Found::Unknown
    }
}
