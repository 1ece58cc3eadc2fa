//! Everything that has a shape of its own in a binary log, each in a database of its own.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::mysql::{Flavour, Mysql};
use crate::mysql_session::Session;

/// A shape: its name, which is that of its database behind a prefix, and the sessions that make it.
pub type Shape = (&'static str, &'static [&'static str]);

/// Those of both families. `@FILE` is a file of rows on the server's machine.
pub const SHAPES: &[Shape] = &[
    ("statements_that_depend_on_their_session", &["CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, a VARCHAR(40) CHARACTER SET utf8mb4, d DOUBLE, at TIMESTAMP(6) NULL, n INT);
        SET SESSION binlog_format = STATEMENT, sql_mode = 'PIPES_AS_CONCAT,ANSI_QUOTES', time_zone = '+05:30', auto_increment_increment = 7, auto_increment_offset = 3;
        SET NAMES latin1; SET @mine = 'mine', @number = 12.5;
        INSERT INTO t (a, d, at, n) VALUES ('x' || 'y', RAND(), '2026-01-01 00:00:00', @number), (@mine, RAND(7), NOW(6), CONNECTION_ID() > 0);
        INSERT INTO t (a, at) SELECT \"a\", CURRENT_TIMESTAMP(6) FROM t ORDER BY id LIMIT 1;
        SET SESSION foreign_key_checks = 0, unique_checks = 0, lc_time_names = 'de_DE';
        INSERT INTO t (a) VALUES (DATE_FORMAT('2026-03-01', '%M')), (LAST_INSERT_ID());
        SET SESSION character_set_client = utf8mb4; INSERT INTO t (a) VALUES ('Ä€');"]),
    ("rows_loaded_from_a_file", &["CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(40)); SET SESSION binlog_format = STATEMENT;
        LOAD DATA INFILE '@FILE' INTO TABLE t FIELDS TERMINATED BY ',' SET a = CONCAT(a, '!');"]),
    ("temporary_table_across_files", &["CREATE TABLE t (id INT, a VARCHAR(40)); SET SESSION binlog_format = STATEMENT;
        CREATE TEMPORARY TABLE held (a VARCHAR(40)); INSERT INTO held VALUES ('from the file before'); FLUSH BINARY LOGS;
        INSERT INTO t SELECT 1, a FROM held; INSERT INTO held VALUES ('more'); INSERT INTO t SELECT 2, a FROM held;
        DROP TEMPORARY TABLE held;"]),
    ("parts_of_rows", &["CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(40), b BLOB, c INT UNIQUE);
        INSERT INTO t VALUES (1, 'a', REPEAT('b', 3000), 1), (2, 'a', 'b', 2), (3, NULL, NULL, NULL);
        SET SESSION binlog_row_image = MINIMAL; UPDATE t SET a = 'changed' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t (id) VALUES (4);
        SET SESSION binlog_row_image = NOBLOB; UPDATE t SET c = 77 WHERE id = 1; UPDATE t SET b = 'new' WHERE id = 3;"]),
    ("cascades_of_foreign_keys", &["CREATE TABLE p (id INT PRIMARY KEY);
        CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE g (id INT PRIMARY KEY, c INT, FOREIGN KEY (c) REFERENCES c (id) ON DELETE SET NULL);
        INSERT INTO p VALUES (1), (2), (3); INSERT INTO c VALUES (10, 1), (20, 2), (30, 3); INSERT INTO g VALUES (100, 10), (200, 20);
        DELETE FROM p WHERE id = 1; UPDATE p SET id = 22 WHERE id = 2; DELETE FROM c WHERE id = 20;"]),
    ("rows_without_a_key", &["CREATE TABLE t (a INT, b VARCHAR(30)); INSERT INTO t VALUES (1, 'x'), (1, 'x'), (NULL, NULL), (2, 'y');
        DELETE FROM t WHERE a = 1 LIMIT 1; UPDATE t SET b = 'z' WHERE a IS NULL;"]),
    ("events_without_checksums", &["CREATE TABLE t (a INT PRIMARY KEY); SET GLOBAL binlog_checksum = NONE; INSERT INTO t VALUES (1), (2);
        FLUSH BINARY LOGS; INSERT INTO t VALUES (3); SET GLOBAL binlog_checksum = CRC32; INSERT INTO t VALUES (4);"]),
    ("xa_transactions_across_files", &[
        "CREATE TABLE t (a INT PRIMARY KEY); XA START 'far', 'branch', 7; INSERT INTO t VALUES (1); XA END 'far', 'branch', 7; XA PREPARE 'far', 'branch', 7;",
        "FLUSH BINARY LOGS; INSERT INTO t VALUES (2); XA COMMIT 'far', 'branch', 7; XA START 'off'; INSERT INTO t VALUES (3); XA END 'off'; XA PREPARE 'off';",
        "XA ROLLBACK 'off'; XA START 'one'; INSERT INTO t VALUES (4); XA END 'one'; XA COMMIT 'one' ONE PHASE;"]),
    ("definitions", &["CREATE TABLE a (id INT PRIMARY KEY, v INT); INSERT INTO a VALUES (1, 1); CREATE TABLE b SELECT * FROM a; CREATE TABLE c LIKE a;
        RENAME TABLE a TO d, c TO a; TRUNCATE b; INSERT INTO b VALUES (5, 5);
        ALTER TABLE d ADD COLUMN w VARCHAR(10) DEFAULT 'w' FIRST, ADD INDEX (v); DROP TABLE IF EXISTS nothing, a; CREATE VIEW e AS SELECT * FROM d;
        CREATE TRIGGER tr AFTER INSERT ON d FOR EACH ROW INSERT INTO b VALUES (NEW.id, 99); INSERT INTO d (id) VALUES (2);
        CREATE EVENT ev ON SCHEDULE EVERY 1 YEAR STARTS '2037-01-01 00:00:00' DO INSERT INTO b VALUES (0, 0); CREATE PROCEDURE pr () INSERT INTO d (id) VALUES (3); CALL pr();
        CREATE USER 'in the log'@localhost IDENTIFIED BY 'x'; GRANT SELECT ON *.* TO 'in the log'@localhost;"]),
    ("an_event_of_many_packets", &["CREATE TABLE t (a INT PRIMARY KEY, b LONGBLOB, g VARCHAR(10) AS (LEFT(b, 3)) STORED);
        INSERT INTO t (a, b) VALUES (1, REPEAT('0123456789abcdef', 600000)); UPDATE t SET b = CONCAT('new', b);"]),
];

/// A transaction over tables with and without transactions, which a server with identifiers of MySQL refuses.
pub const MIXED: Shape = ("engines_that_do_not_roll_back", &["CREATE TABLE still (a INT) ENGINE = MyISAM; CREATE TABLE t (a INT PRIMARY KEY);
    BEGIN; INSERT INTO t VALUES (1); INSERT INTO still VALUES (1); ROLLBACK;
    BEGIN; INSERT INTO still VALUES (2); INSERT INTO t VALUES (2); SAVEPOINT s; INSERT INTO t VALUES (3); ROLLBACK TO s; COMMIT;"]);

/// Those of MySQL with and without identifiers.
pub const MYSQL: &[Shape] = &[
    ("compressed_transactions", &["CREATE TABLE t (a INT PRIMARY KEY, b TEXT); SET SESSION binlog_transaction_compression = ON;
        BEGIN; INSERT INTO t VALUES (1, REPEAT('x', 50000)), (2, 'y'); UPDATE t SET b = 'z' WHERE a = 2; COMMIT; DELETE FROM t WHERE a = 2;"]),
    ("statements_beside_rows_and_parts_of_json", &["CREATE TABLE t (a INT PRIMARY KEY, j JSON);
        SET SESSION binlog_rows_query_log_events = ON, binlog_row_value_options = PARTIAL_JSON;
        INSERT INTO t VALUES (1, JSON_OBJECT('k', REPEAT('x', 500), 'n', 1)); UPDATE t SET j = JSON_SET(j, '$.n', 2); UPDATE t SET j = JSON_REMOVE(j, '$.k');"]),
];

/// Those of MySQL with identifiers.
pub const MYSQL_GTID: &[Shape] = &[(
    "tagged_and_empty_transactions",
    &["CREATE TABLE t (a INT PRIMARY KEY);
    SET SESSION gtid_next = 'AUTOMATIC:shop'; INSERT INTO t VALUES (1); INSERT INTO t VALUES (2);
    SET SESSION gtid_next = '0b1c2d3e-0000-1000-8000-00805f9b34fb:two:5'; INSERT INTO t VALUES (3);
    SET SESSION gtid_next = '0b1c2d3e-0000-1000-8000-00805f9b34fb:9'; BEGIN; COMMIT;
    SET SESSION gtid_next = AUTOMATIC; INSERT INTO t VALUES (4);"],
)];

/// Those of MariaDB.
pub const MARIADB: &[Shape] = &[
    ("two_domains", &["CREATE TABLE t (a INT PRIMARY KEY); SET SESSION gtid_domain_id = 7; CREATE TABLE u (a INT PRIMARY KEY); INSERT INTO u VALUES (1);
        SET SESSION gtid_domain_id = 0; INSERT INTO t VALUES (2); SET SESSION gtid_domain_id = 7, server_id = 55, gtid_seq_no = 1000; INSERT INTO u VALUES (3);
        SET SESSION gtid_domain_id = 0, server_id = 1; INSERT INTO t VALUES (4);"]),
    ("compressed_events", &["CREATE TABLE t (a INT PRIMARY KEY, b TEXT); SET GLOBAL log_bin_compress = ON, log_bin_compress_min_len = 10;
        INSERT INTO t VALUES (1, REPEAT('x', 50000)); SET SESSION binlog_format = STATEMENT;
        UPDATE t SET b = 'a statement that is compressed, too, since it is longer than ten bytes'; SET GLOBAL log_bin_compress = OFF;"]),
    ("definitions_in_two_phases", &["CREATE TABLE t (a INT PRIMARY KEY); INSERT INTO t VALUES (1); SET SESSION binlog_alter_two_phase = ON;
        ALTER TABLE t ADD COLUMN b INT DEFAULT 5, ALGORITHM = COPY; INSERT INTO t VALUES (2, 2);"]),
    ("sequences_and_versions_of_rows", &["CREATE SEQUENCE s CACHE 5; SELECT NEXTVAL(s), NEXTVAL(s);
        CREATE TABLE t (a INT PRIMARY KEY DEFAULT NEXTVAL(s), b INT) WITH SYSTEM VERSIONING; INSERT INTO t (b) VALUES (1), (2);
        UPDATE t SET b = 3 WHERE b = 1; DELETE FROM t WHERE b = 2; CREATE OR REPLACE TABLE u SELECT a FROM t; CREATE OR REPLACE TABLE u (x INT);"]),
    ("clocks_that_go_back", &["CREATE TABLE t (a INT PRIMARY KEY); INSERT INTO t VALUES (1); SET TIMESTAMP = UNIX_TIMESTAMP() - 7200;
        INSERT INTO t VALUES (2); SET TIMESTAMP = DEFAULT; INSERT INTO t VALUES (3);"]),
];

/// All shapes that a server can make.
pub fn shapes(flavour: Flavour, identifiers: bool) -> Vec<Shape> {
    let more: Vec<&[Shape]> = match (flavour, identifiers) {
        (Flavour::Mysql, true) => vec![MYSQL, MYSQL_GTID],
        (Flavour::Mysql, false) => vec![MYSQL, &[MIXED]],
        (Flavour::Mariadb, _) => vec![MARIADB, &[MIXED]],
    };
    SHAPES.iter().chain(more.into_iter().flatten()).copied().collect()
}

/// Makes a shape. `file` holds rows for it to load.
pub fn make(server: &Mysql, shape: &Shape, file: &str) -> Result<()> {
    let (name, sessions) = shape;
    server.sql(&format!("CREATE DATABASE s_{name}"))?;
    for statements in *sessions {
        let statements = format!("USE s_{name}; {}", statements.replace("@FILE", file));
        server.sql(&statements).with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

/// The rows and definitions of all shapes: a checksum and a statement for each table.
pub async fn picture(server: &Mysql) -> Result<BTreeMap<String, String>> {
    let mut session = Session::open(server).await?;
    let mut picture = BTreeMap::new();
    let asked =
        "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema LIKE 's\\_%'";
    for row in session.rows(asked).await? {
        let name = format!("{}.{}", row.text(0).context("no schema")?, row.text(1).context("no table")?);
        let shown = session.row(&format!("SHOW CREATE TABLE {name}")).await?.context("no definition")?;
        // The next number depends on settings of the session that used the last one.
        let words = shown.text(1).unwrap_or_default();
        let words: Vec<_> = words.split(' ').filter(|word| !word.starts_with("AUTO_INCREMENT=")).collect();
        let mut text = words.join(" ");
        if matches!(row.text(2).as_deref(), Some("BASE TABLE" | "SYSTEM VERSIONED")) {
            let sum = session.row(&format!("CHECKSUM TABLE {name} EXTENDED")).await?.context("no checksum")?;
            text.push_str(&format!(" checksum {}", sum.text(1).unwrap_or_default()));
        }
        picture.insert(name, text);
    }
    let routines = "SELECT CONCAT(routine_schema, '.', routine_name), routine_definition FROM information_schema.routines WHERE routine_schema LIKE 's\\_%'";
    for row in session.rows(routines).await? {
        picture.insert(format!("routine {}", row.text(0).unwrap_or_default()), row.text(1).unwrap_or_default());
    }
    let users = "SELECT user FROM mysql.user WHERE user = 'in the log'";
    for row in session.rows(users).await? {
        picture.insert("account".to_owned(), row.text(0).unwrap_or_default());
    }
    Ok(picture)
}
