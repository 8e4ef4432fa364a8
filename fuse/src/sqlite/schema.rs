//! `sqlite_schema`: which tables and indexes there are, and where their trees begin.

use super::{header::Encoding, page::Page};

/// Root of the schema's own tree.
pub(super) const SCHEMA_ROOT: u32 = 1;

/// A row of the schema that has a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) root: u32,
    pub(super) is_index: bool,
    /// Name of the table that it is or belongs to, in lower case.
    pub(super) table: String,
}

/// The objects on one leaf of the schema's tree. Rows that are odd, without a tree (views, triggers,
/// virtual tables), or with names longer than a page are left out.
pub(super) fn objects(page: &Page<'_>, encoding: Encoding) -> Vec<Object> {
    page.rows(4, |columns| {
        let [kind, _name, table, root] = columns else { return None };
        let is_index = match kind.text(encoding)?.as_str() {
            "table" => false,
            "index" => true,
            _ => return None,
        };
        let root = u32::try_from(root.integer()?).ok().filter(|&root| root > SCHEMA_ROOT)?;
        Some(Object { root, is_index, table: table.text(encoding)?.to_ascii_lowercase() })
    })
}
