//! The shared archive: one layout on any object store.
