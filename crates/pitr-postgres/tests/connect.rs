//! Logins, TLS and failures, on a real server.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support_io;

use std::path::Path;
use std::process::Command;

use pitr_core::{Classify, ErrorKind};
use pitr_postgres::check::{Severity, check};
use pitr_postgres::connect::{ConnectError, Password, Settings, Wire, sql_client};
use pitr_postgres::grants::{GrantOptions, role_script};
use pitr_postgres::replication::ReplicationClient;
use support_io::{Server, bin, free_port, give_to_server_user, major};

/// A server over TCP with TLS, one role per kind of password, and an authority that signed its certificate.
fn secure_server() -> Server {
    let hba = "local all postgres trust\nlocal all scram_role scram-sha-256\nlocal replication plain_role password\n\
        hostnossl all plain_role 127.0.0.1/32 password\nhostnossl replication plain_role 127.0.0.1/32 password\n\
        host all scram_role 127.0.0.1/32 scram-sha-256\nhost replication scram_role 127.0.0.1/32 scram-sha-256\n\
        host replication md5_role 127.0.0.1/32 md5\nhostssl replication plain_role 127.0.0.1/32 password\n";
    let server = Server::start_with(&bin(), "listen_addresses = '127.0.0.1'", hba);
    certificates(&server.data());
    let conf = server.data().join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text + "ssl = on\n").unwrap();
    give_to_server_user(&server.data());
    server.pg_ctl(&["restart", "-w", "-l", server.root.path().join("log").to_str().unwrap()]);
    server
}

/// `ca.crt`, and `server.crt` with its key, for `localhost` only.
fn certificates(directory: &Path) {
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).current_dir(directory).output().expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(
        &[
            &["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.crt"][..],
            &key,
        ]
        .concat(),
    );
    openssl(&[&["req", "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"][..], &key].concat());
    std::fs::write(directory.join("san"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "san",
        "-out",
        "server.crt",
    ]);
}

async fn roles(server: &Server) {
    let sql = server.sql().await;
    sql.batch_execute("SET password_encryption = 'scram-sha-256'; CREATE ROLE scram_role LOGIN REPLICATION PASSWORD 'secret'; CREATE ROLE plain_role LOGIN REPLICATION PASSWORD 'secret'").await.unwrap();
    sql.batch_execute("SET password_encryption = 'md5'; CREATE ROLE md5_role LOGIN REPLICATION PASSWORD 'secret'")
        .await
        .unwrap();
}

fn at(server: &Server, user: &str, host: &str, parameters: &str) -> Settings {
    let authority = server.data().join("ca.crt");
    let url = format!(
        "postgresql://{user}@{host}:{}/postgres?{}",
        server.port,
        parameters.replace("CA", authority.to_str().unwrap())
    );
    Settings::parse(&url).unwrap().with_password(Password::new("secret"))
}

async fn kind(settings: &Settings) -> Option<ErrorKind> {
    Wire::connect(settings).await.err().map(|error| error.kind())
}

#[tokio::test]
async fn every_way_of_logging_in_works_where_it_is_safe() {
    let server = secure_server();
    roles(&server).await;
    for (user, host, parameters) in [
        ("scram_role", "127.0.0.1", "sslmode=disable"),
        ("scram_role", "127.0.0.1", "sslmode=require"),
        ("scram_role", "127.0.0.1", "sslmode=verify-ca&sslrootcert=CA"),
        ("scram_role", "localhost", "sslmode=verify-full&sslrootcert=CA"),
        ("md5_role", "127.0.0.1", "sslmode=disable"),
        ("plain_role", "127.0.0.1", "sslmode=require"),
    ] {
        let settings = at(&server, user, host, parameters);
        let mut client =
            ReplicationClient::connect(&settings).await.unwrap_or_else(|error| panic!("{user} {parameters}: {error}"));
        assert_eq!(client.major(), major());
        client.identify().await.unwrap();
        client.close().await;
    }
    let sql = sql_client(&at(&server, "scram_role", "localhost", "sslmode=verify-full&sslrootcert=CA")).await.unwrap();
    let row = sql.query_one("SELECT ssl, (SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()) FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await.unwrap();
    assert_eq!((row.get::<_, bool>(0), row.get::<_, &str>(1)), (true, "pitr"));
    let mut unix = server.settings().with_password(Password::new("secret"));
    unix.user = "plain_role".to_owned();
    assert_eq!(kind(&unix).await, None, "a unix socket is private");
}

#[tokio::test]
async fn what_is_not_safe_or_not_right_is_denied() {
    let server = secure_server();
    roles(&server).await;
    for (user, host, parameters, what) in [
        ("scram_role", "127.0.0.1", "sslmode=verify-full&sslrootcert=CA", "the certificate is for another name"),
        ("scram_role", "localhost", "sslmode=verify-full", "the authority is not one of the system's"),
        ("plain_role", "127.0.0.1", "sslmode=disable", "a plain password over a network"),
        ("nobody", "127.0.0.1", "sslmode=disable", "no line of pg_hba.conf"),
    ] {
        assert_eq!(kind(&at(&server, user, host, parameters)).await, Some(ErrorKind::Denied), "{what}");
    }
    let right = at(&server, "scram_role", "127.0.0.1", "sslmode=disable");
    let wrong = right.clone().with_password(Password::new("hunter2"));
    let error = Wire::connect(&wrong).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.hint().unwrap().contains("password") && !error.to_string().contains("hunter2"), "{error}");
    let error = sql_client(&wrong).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let none = Settings { password: None, ..right };
    assert!(matches!(Wire::connect(&none).await, Err(ConnectError::NoPassword { .. })));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable_and_one_without_tls_says_so() {
    let server = Server::start_with(
        &bin(),
        "listen_addresses = '127.0.0.1'",
        "local all all trust\nhost all all 127.0.0.1/32 trust\n",
    );
    let refused = Settings::parse(&format!("postgresql://u@127.0.0.1:{}", free_port())).unwrap();
    assert_eq!(kind(&refused).await, Some(ErrorKind::Unreachable));
    assert_eq!(sql_client(&refused).await.err().map(|error| error.kind()), Some(ErrorKind::Unreachable));
    let socket = Settings::unix(server.root.path(), 1, "u");
    assert_eq!(kind(&socket).await, Some(ErrorKind::Unreachable));
    let plain = Settings::parse(&format!("postgresql://postgres@127.0.0.1:{}?sslmode=require", server.port)).unwrap();
    assert!(matches!(Wire::connect(&plain).await, Err(ConnectError::NoTls(_))));
    let lost = sql_client(&server.settings().with_database("absent")).await.err().unwrap();
    assert!(lost.to_string().contains("3D000"), "{lost}");
}

#[tokio::test]
async fn the_granted_role_is_enough_and_the_check_finds_what_is_missing() {
    let server = Server::start();
    let sql = server.sql().await;
    let script = role_script(&GrantOptions { role: "pitr backup".to_owned(), address: None });
    sql.batch_execute(&script).await.unwrap();
    sql.batch_execute(&script).await.expect("safe to run again");
    let mut settings = server.settings();
    settings.user = "pitr backup".to_owned();
    let report = check(&settings, "pitr wal push %p").await.unwrap();
    let bad: Vec<_> =
        report.findings.iter().filter(|f| f.severity > Severity::Good).map(|f| (f.topic, f.severity)).collect();
    let expected =
        [("archive_command", Severity::Failure), ("fsync", Severity::Warning), ("archive_timeout", Severity::Hint)];
    assert_eq!(bad, expected);
    assert_eq!((report.worst(), report.version_num / 10_000), (Severity::Failure, major()));
    assert!(report.identity.is_some());
    let granted = sql_client(&settings).await.unwrap();
    granted.batch_execute("SELECT pg_create_restore_point('here'), pg_switch_wal()").await.unwrap();

    sql.batch_execute("ALTER ROLE \"pitr backup\" NOREPLICATION").await.unwrap();
    let report = check(&settings, "pitr wal push %p").await.unwrap();
    let replication = report.findings.iter().find(|f| f.topic == "replication").unwrap();
    assert_eq!(replication.fix.as_deref(), Some("ALTER ROLE \"pitr backup\" REPLICATION;"));
}
