//! A set with access control: the role that `pitr grants` prints is enough for everything, and less is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use integration_tests::mongodb::{documents, run_script};
use integration_tests::{Mongo, MongoSetup, Pitr, SOURCE, Scratch, Streaming, wait_for_archive};
use mongodb::Client;

const PASSWORD: &str = "a pass/word: @1";

async fn guarded(scratch: &Scratch, name: &str, members: usize) -> Result<(Mongo, Client)> {
    let key = scratch.write(&format!("{name}.key"), "a key of a set that only a test has")?;
    let mut arguments = vec!["--auth".to_owned()];
    if members > 0 {
        arguments.extend(["--keyFile".to_owned(), key.to_string_lossy().into_owned()]);
    }
    let server = Mongo::start(scratch, name, &MongoSetup { members, arguments, ..MongoSetup::chosen() }).await?;
    // The first user may be made from the machine itself without a login.
    let first = doc! { "createUser": "root", "pwd": "root", "roles": ["root"] };
    let anybody = server.client().await?;
    anybody.database("admin").run_command(first).await?;
    let client = Client::with_uri_str(as_user(&server, "root:root")).await?;
    Ok((server, client))
}

fn as_user(server: &Mongo, user: &str) -> String {
    format!("{}&authSource=admin", server.url().replacen("mongodb://", &format!("mongodb://{user}@"), 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_role_is_enough_and_a_lesser_one_is_told_what_it_lacks() -> Result<()> {
    let scratch = Scratch::new("mongo-rights")?;
    let (source, root) = guarded(&scratch, "rs", 1).await?;
    let password = scratch.write("password", PASSWORD)?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &as_user(&source, "pitr"), false)?;
    pitr.configure_source([format!("password_file = {password:?}").as_str()])?;
    pitr.run(["init"])?.ok()?;

    // Nobody of that name, then one who may do too little.
    let refused = pitr.run(["check", SOURCE])?.with_code(12)?;
    ensure!(refused.stderr.contains("Authentication failed") && !refused.text().contains(PASSWORD), "{refused}");
    let admin = root.database("admin");
    admin.run_command(doc! { "createUser": "pitr", "pwd": PASSWORD, "roles": ["readAnyDatabase"] }).await?;
    let findings = findings(&pitr)?;
    ensure!(findings.contains("failure"), "{findings}");
    admin.run_command(doc! { "dropUser": "pitr" }).await?;

    let script = pitr.run(["grants", "mongodb"])?.ok()?.stdout;
    run_script(&root, &script, PASSWORD, false).await.context("first run of the script")?;
    run_script(&root, &script, PASSWORD, true).await.context("second run of the script")?;
    let findings = self::findings(&pitr)?;
    ensure!(!findings.contains("failure") && !findings.contains("no heartbeats"), "{findings}");

    let all = root.database("shop").collection::<Document>("all");
    all.insert_one(doc! { "_id": 1 }).await?;
    let mut tail = Streaming::start(&pitr)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    all.insert_one(doc! { "_id": 2 }).await?;
    pitr.run(["mark", SOURCE, "here"])?.ok()?;
    all.insert_one(doc! { "_id": 3 }).await?;
    let last = root.database("local").collection::<Document>("oplog.rs");
    let last = last.find_one(doc! {}).sort(doc! { "$natural": -1 }).await?.unwrap().get_timestamp("ts")?;
    wait_for_archive(&pitr, last).await?;
    tail.stop()?;

    // Into a server with access control, as the script's last lines say.
    let (target, target_root) = guarded(&scratch, "target", 0).await?;
    let admin = target_root.database("admin");
    let anything = doc! { "resource": { "anyResource": true }, "actions": ["anyAction"] };
    admin.run_command(doc! { "createRole": "pitrTarget", "roles": ["root"], "privileges": [anything] }).await?;
    admin.run_command(doc! { "createUser": "restorer", "pwd": PASSWORD, "roles": ["pitrTarget"] }).await?;
    let url = as_user(&target, "restorer");
    let mut command = pitr.command(["restore", SOURCE, "--to", "name:here", "--target-url", &url]);
    command.env("PITR_TARGET_PASSWORD_FILE", &password);
    let run = Pitr::finish(command)?;
    ensure!(matches!(run.code, Some(0 | 3)) && !run.text().contains(PASSWORD), "{run}");
    // The administrator of the source has taken the place of that of the target, who was of the same name.
    let target_root = Client::with_uri_str(as_user(&target, "root:root")).await?;
    let found = documents(&target_root.database("shop").collection::<Document>("all")).await?;
    ensure!(found == [doc! { "_id": 1 }, doc! { "_id": 2 }], "{found:?}");
    // The users of the source are there beside those of the target.
    let users = documents(&target_root.database("admin").collection::<Document>("system.users")).await?;
    let names: Vec<&str> = users.iter().filter_map(|user| user.get_str("user").ok()).collect();
    ensure!(names == ["pitr", "restorer", "root"], "{users:?}");
    let own = root.database("admin").collection::<Document>("system.users").find_one(doc! { "user": "root" }).await?;
    ensure!(own.is_some() && users.last() == own.as_ref(), "{users:?}");
    Ok(())
}

fn findings(pitr: &Pitr) -> Result<String> {
    Ok(pitr.json(["check", SOURCE])?.to_string())
}
