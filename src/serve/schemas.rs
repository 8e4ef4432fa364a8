//! Whether the statements of a schema make a database: SQLite says so, on one that is thrown away.

use std::path::PathBuf;

use async_trait::async_trait;
use springhouse_gateway::{blocking, writing::SchemaCheck};

use crate::query::{self, QuerySettings, write};

/// Checks schemas with the same sandbox as hot workers run them in.
#[derive(Debug)]
pub(super) struct Schemas {
    settings: QuerySettings,
    dir: PathBuf,
}

impl Schemas {
    /// `dir`: where the databases are made for a moment.
    pub(super) fn new(settings: QuerySettings, dir: PathBuf) -> Self {
        Self { settings, dir }
    }
}

#[async_trait]
impl SchemaCheck for Schemas {
    async fn check(&self, sql: &str) -> Result<(), String> {
        let (settings, dir, sql) = (self.settings.clone(), self.dir.clone(), sql.to_owned());
        let made = blocking::run(move || {
            // Of a gateway alone nothing else needs SQLite.
            query::init()?;
            let scratch = tempfile::Builder::new().prefix(".schema-").tempdir_in(&dir);
            let scratch = scratch.map_err(|error| format!("{}: {error}", dir.display()))?;
            write::create(&scratch.path().join("database"), &sql, &settings).map_err(|error| error.message)
        });
        made.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sqlite_decides() {
        let dir = tempfile::tempdir().expect("a directory");
        let schemas = Schemas::new(QuerySettings::default(), dir.path().into());
        assert_eq!(schemas.check("create table t (a, b primary key); create index i on t (a)").await, Ok(()));
        assert_eq!(schemas.check("-- nothing yet").await, Ok(()));
        let wrong = schemas.check("create table t (a,, b)").await.expect_err("no SQL");
        assert!(wrong.contains("syntax error"), "{wrong}");
        let forbidden = schemas.check("attach '/etc/passwd' as x").await.expect_err("outside");
        assert!(!forbidden.is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0, "nothing is left");
    }
}
