//! Random targets of every form against the replica set's own oplog: after a restore every document, collection and
//! name must be exactly what the log gives up to the cut.
//!
//! `PITR_TARGETS=100` checks more of them, `PITR_SEED` replays a run, `PITR_MONGODB` takes another version.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt;

use anyhow::{Context, Result, ensure};
use bson::Timestamp;
use integration_tests::mongo_load::{self, Load};
use integration_tests::mongo_truth::{self, Moment, Truth};
use integration_tests::seed::{generator, seed};
use integration_tests::{Mongo, MongoSetup, Pitr, SOURCE, Scratch, Streaming, optime, wait_for_archive};
use rand::RngExt;
use rand::rngs::StdRng;

const TARGETS: usize = 12;
const MARKS: [&str; 3] = ["before_deploy", "a year ago", "ümläut"];

/// Where to restore to, and what that must keep.
#[derive(Debug, Clone)]
struct Target {
    point: Point,
    keep: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Point {
    Latest,
    Wall(i64),
    Optime(Timestamp),
    Name(&'static str),
}

impl Target {
    fn args(&self) -> [String; 2] {
        let point = match &self.point {
            Point::Latest => "latest".to_owned(),
            Point::Wall(millis) => chrono::DateTime::from_timestamp_millis(*millis).unwrap().to_rfc3339(),
            Point::Optime(at) => optime(*at),
            Point::Name(name) => format!("name:{name}"),
        };
        [if self.keep { "--to" } else { "--before" }.to_owned(), point]
    }

    /// The first entry that is not kept, in log order; what follows it is not kept either.
    fn cut(&self, truth: &Truth, moments: &[Moment]) -> Result<Option<Timestamp>> {
        let first = |dropped: &dyn Fn(&Moment) -> bool| moments.iter().find(|moment| dropped(moment)).map(|m| m.at);
        Ok(match &self.point {
            Point::Latest => None,
            Point::Wall(t) if self.keep => first(&|m| m.commit && m.wall.timestamp_millis() > *t),
            Point::Wall(t) => first(&|m| m.commit && m.wall.timestamp_millis() >= *t),
            Point::Optime(at) if self.keep => first(&|m| m.at > *at),
            Point::Optime(at) => first(&|m| m.at >= *at),
            Point::Name(name) => {
                let at = truth.mark(name).context("no such mark")?;
                first(&|m| m.at >= at)
            }
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.args().join(" "))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_target_restores_exactly_the_documents_of_the_logs_own_order() -> Result<()> {
    let seed = seed("mongo_oracle");
    let scratch = Scratch::new("mongo-oracle")?;
    let source = Mongo::start(&scratch, "rs", &MongoSetup::chosen()).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), true)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    mongo_load::prepare(&client).await?;
    let mut streaming = Streaming::start(&pitr)?;
    let load = |round| mongo_load::run(&client, Load { seed, round, clients: 4, steps: 50 });

    pitr.run(["backup", SOURCE])?.ok()?;
    let from = *Truth::read(&client).await?.moments()?.last().unwrap();
    load(1).await?;
    let meanwhile = {
        let pitr = pitr.clone();
        tokio::task::spawn_blocking(move || pitr.run(["backup", SOURCE])?.ok())
    };
    let (busy, backup) = tokio::join!(load(2), meanwhile);
    busy?;
    backup??;
    for (round, name) in (3..).zip(MARKS) {
        pitr.run(["mark", SOURCE, name])?.ok()?;
        load(round).await?;
    }
    let truth = Truth::read(&client).await?;
    let moments = truth.moments()?;
    let last = *moments.last().unwrap();
    wait_for_archive(&pitr, last.at).await?;
    streaming.stop()?;

    let count = std::env::var("PITR_TARGETS").ok().and_then(|n| n.parse().ok()).unwrap_or(TARGETS);
    let restorable: Vec<Moment> = moments.iter().copied().filter(|m| m.commit && m.at > from.at).collect();
    ensure!(restorable.len() > 100, "only {} commits", restorable.len());
    eprintln!("{} entries, {} restorable commits", moments.len(), restorable.len());
    let mut rng = generator(seed, 99);
    for number in 0..count {
        let target = target(number, &restorable, &mut rng);
        let begun = std::time::Instant::now();
        check(&scratch, &pitr, &truth, &moments, &target, number).await.with_context(|| target.to_string())?;
        eprintln!("{number:>3} {target:<50} exact, {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Every form in turn, aimed at the edges that are easy to get wrong.
fn target(number: usize, restorable: &[Moment], rng: &mut StdRng) -> Target {
    // Not the first one: before it there may be nothing that a base reaches.
    let at = rng.random_range(1..restorable.len() - 1);
    let (moment, next) = (restorable[at], restorable[at + 1]);
    let (wall, keep) = (moment.wall.timestamp_millis(), rng.random_bool(0.5));
    let (point, keep) = match number % 8 {
        0 => (Point::Latest, true),
        1 => (Point::Optime(moment.at), true),
        2 => (Point::Optime(moment.at), false),
        3 => (Point::Wall(wall), true),
        4 => (Point::Wall(next.wall.timestamp_millis()), false),
        5 => (Point::Name(MARKS[rng.random_range(0..MARKS.len())]), keep),
        6 => (Point::Wall(wall + rng.random_range(-1..2)), keep),
        // Between two entries, or at one that changes nothing.
        _ => (Point::Optime(Timestamp { increment: moment.at.increment + 1, ..moment.at }), keep),
    };
    Target { point, keep }
}

async fn check(
    scratch: &Scratch,
    pitr: &Pitr,
    truth: &Truth,
    moments: &[Moment],
    target: &Target,
    number: usize,
) -> Result<()> {
    let server = Mongo::standalone(scratch, &format!("t{number}")).await?;
    let [bound, point] = target.args();
    let run = pitr.run(["restore", SOURCE, &bound, &point, "--target-url", &server.url()])?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    let cut = target.cut(truth, moments)?;
    let expected = truth.state(|moment| cut.is_none_or(|cut| moment.at < cut))?;
    mongo_truth::compare(&expected, &mongo_truth::content(&server.client().await?).await?)
        .with_context(|| format!("first entry not kept: {cut:?}\n{}", run.stdout))?;
    // A hundred of them fill a disk.
    server.discard()
}
