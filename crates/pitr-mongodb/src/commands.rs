//! What is known of the commands that stand in an oplog, by name.

/// What a replay does with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Sends it to the target.
    Apply,
    /// Takes it apart: the operations inside are applied.
    Unpack,
    /// Notes it: indexes are built at the end.
    Index,
    /// Leaves it out: it tells of internals that the target has its own of.
    Ignore,
    /// Refuses to restore over it, with the reason.
    Refuse(&'static str),
    /// Has never heard of it. Archived with a warning, refused when a restore is planned over it.
    Unknown,
}

/// What to do with a command.
pub fn policy(name: &str) -> Policy {
    match name {
        "create" | "drop" | "dropDatabase" | "renameCollection" | "collMod" | "convertToCapped" | "emptycapped" => {
            Policy::Apply
        }
        "applyOps" | "commitTransaction" | "abortTransaction" => Policy::Unpack,
        "createIndexes" | "commitIndexBuild" | "dropIndexes" | "deleteIndexes" | "dropIndex" | "deleteIndex" => {
            Policy::Index
        }
        "startIndexBuild"
        | "abortIndexBuild"
        | "dbCheck"
        | "setMultikeyMetadata"
        | "dropIdent"
        | "modifyCollectionShardingIndexCatalog"
        | "createDatabaseMetadata"
        | "dropDatabaseMetadata"
        | "createGlobalIndex"
        | "dropGlobalIndex" => Policy::Ignore,
        "importCollection" => Policy::Refuse("a collection was imported as a file, whose content is not in the log"),
        "truncateRange" => Policy::Refuse("a range of records was cut off, named by numbers that only that server has"),
        "upgradeDowngradeViewlessTimeseries" => Policy::Refuse("the format of a time-series collection was changed"),
        _ => Policy::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::{Policy, policy};

    #[test]
    fn a_new_command_is_never_passed_over() {
        assert_eq!(policy("somethingOfTenPointZero"), Policy::Unknown);
        assert_eq!(policy("create"), Policy::Apply);
        assert_eq!(policy("startIndexBuild"), Policy::Ignore);
    }
}
