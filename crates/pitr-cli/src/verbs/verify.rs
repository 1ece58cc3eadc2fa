//! `pitr verify`: reads everything back and checks every byte against the digest it was stored with.

use futures::StreamExt;
use pitr_archive::layout::KEYS;
use pitr_archive::{Archive, SourceArchive, base};
use pitr_core::{BaseId, Classify, ErrorKind};
use pitr_plan::gaps;
use serde_json::{Value, json};

use crate::cli::Verify;
use crate::context::{Context, Purpose};
use crate::engine::{Product, Site, by_engine};
use crate::failure::Failure;
use crate::limits::{SHOWN_DAMAGES, VERIFY_CONCURRENCY};
use crate::planning::missing_side_file;
use crate::report::{Report, Warning};
use crate::verbs::status::gap_text;
use crate::{progress, time};

/// What was found in one source.
#[derive(Default)]
struct Findings {
    objects: u64,
    bytes: u64,
    bases: u64,
    damaged: Vec<Damaged>,
    gaps: Vec<String>,
}

struct Damaged {
    object: String,
    what: String,
    affects: Vec<String>,
}

/// Verifies one source or all.
pub async fn run(context: &Context, args: &Verify, quiet: bool) -> Result<Report, Failure> {
    let sites = Site::all(context, args.source.as_deref())?;
    let archive = context.archive(if args.quick { Purpose::Write } else { Purpose::Read }).await?;
    let mut keys = Vec::new();
    let (mut text, mut data, mut warnings, mut damaged) = (String::new(), Vec::new(), Vec::new(), 0);
    for (key, what) in if args.quick { Vec::new() } else { damaged_keys(&archive).await? } {
        damaged += 1;
        text.push_str(&format!("  DAMAGED {key}: {what}\n"));
        keys.push(json!({ "object": key, "what": what }));
    }
    for site in sites {
        let name = site.name;
        let source = archive.source(name)?;
        let mut findings = Findings::default();
        if !args.quick {
            read_objects(&source, &mut findings, quiet).await?;
            read_bases(&source, &mut findings).await?;
        }
        by_engine!(site.source.engine, E => read_catalog::<E>(&source, &mut findings).await?);
        damaged += findings.damaged.len();
        text.push_str(&findings.text(name, args.quick));
        data.push(findings.data(name));
        warnings.extend(findings.gaps.iter().map(|gap| Warning {
            code: "gap",
            message: format!("{name}: gap {gap}"),
            next: vec!["docs/runbooks/gap.md".to_owned()],
        }));
    }
    if damaged > 0 {
        let mut failure = Failure::new(ErrorKind::Integrity, format!("{damaged} objects are damaged or missing"));
        failure.screen = Some(format!("{text}\nNext: docs/runbooks/damaged-archive.md"));
        failure.data = Some(json!({ "sources": data, "keys": keys }));
        return Err(failure.next("docs/runbooks/damaged-archive.md"));
    }
    let mut report = Report::new("pitr.verify/1", json!({ "sources": data }), text).next("pitr status");
    report.warnings = warnings;
    Ok(report)
}

/// What the listing tells as a whole: gaps, and what a lineage needs besides its log.
async fn read_catalog<E: Product>(source: &SourceArchive, findings: &mut Findings) -> Result<(), Failure> {
    match source.catalog::<E>().await {
        Ok(catalog) => {
            for lineage in source.unregistered().await? {
                let what = format!("the record of lineage {lineage} is missing, although its log is there");
                findings.add(&source.layout().log(&lineage), &what);
            }
            for lineage in &catalog.lineages {
                if let Some(key) = missing_side_file::<E>(source, lineage).await? {
                    findings.add(&key, "missing: without it nothing of its lineage can be restored");
                }
            }
            findings.gaps = gaps::<E>(&catalog).iter().map(gap_text::<E>).collect();
        }
        // Damage that is named already: what else was found must still be told.
        Err(error) if error.kind() == ErrorKind::Integrity && !findings.damaged.is_empty() => {}
        Err(error) => return Err(Failure::from(error)),
    }
    Ok(())
}

/// Reads the wrapped copies of the digest key: who has it in a file would not miss them until that file is lost.
async fn damaged_keys(archive: &Archive) -> Result<Vec<(String, String)>, Failure> {
    let mut damaged = Vec::new();
    for entry in archive.objects().list(KEYS).await? {
        match archive.objects().get(&entry.key).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Integrity => {
                damaged.push((entry.key, Failure::from(error).message));
            }
            // Wrapped to others: its bytes were whole up to there.
            Err(error) if error.kind() == ErrorKind::Denied => {}
            Err(error) => return Err(Failure::from(error)),
        }
    }
    Ok(damaged)
}

/// Reads every object that stands for itself: segments, tails, side files, lineages, gaps, roll-ups.
async fn read_objects(source: &SourceArchive, findings: &mut Findings, quiet: bool) -> Result<(), Failure> {
    let (root, bases, packs) = (source.layout().root(), source.layout().bases(), source.layout().packs());
    let listed = source.objects().list(root).await?;
    let alone = |key: &str| !key.starts_with(&format!("{bases}/")) && !key.starts_with(&format!("{packs}/"));
    let listed: Vec<_> = listed.into_iter().filter(|entry| alone(&entry.key)).collect();
    let bar = progress::bytes(&format!("verify {}", source.name().as_str()), quiet);
    bar.set_length(listed.iter().map(|entry| entry.bytes).sum());
    let mut read = futures::stream::iter(listed)
        .map(|entry| async move { (source.check_object(&entry.key).await, entry) })
        .buffer_unordered(VERIFY_CONCURRENCY);
    while let Some((object, entry)) = read.next().await {
        bar.inc(entry.bytes);
        findings.objects += 1;
        match object {
            Ok(Some(bytes)) => findings.bytes += bytes,
            Ok(None) => findings.add(&entry.key, "listed, and not there any more"),
            Err(error) if error.kind() == ErrorKind::Integrity => {
                findings.add(&entry.key, &Failure::from(error).message)
            }
            Err(error) => return Err(Failure::from(error)),
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Reads every chunk of every base that has a manifest.
async fn read_bases(source: &SourceArchive, findings: &mut Findings) -> Result<(), Failure> {
    let objects = source.objects();
    for name in objects.groups(&source.layout().bases()).await? {
        let Ok(id) = BaseId::new(&name) else {
            findings.add(&name, "is no name of a base");
            continue;
        };
        // What has no manifest does not exist; a damaged one is for the check to find.
        if let Ok(None) = objects.header(&source.layout().manifest(&id)).await {
            continue;
        }
        let check = base::verify(source, &id).await?;
        findings.bases += 1;
        findings.bytes += check.bytes;
        for damage in check.damages {
            let affects = damage.parts.iter().map(|part| format!("base {id}: {part}")).collect();
            findings.damaged.push(Damaged { object: damage.key, what: damage.what, affects });
        }
        if check.more > 0 {
            findings.add(id.as_str(), &format!("and {} more damaged objects", check.more));
        }
    }
    Ok(())
}

impl Findings {
    fn add(&mut self, object: &str, what: &str) {
        self.damaged.push(Damaged { object: object.to_owned(), what: what.to_owned(), affects: Vec::new() });
    }

    fn text(&self, name: &str, quick: bool) -> String {
        let mut out = match quick {
            true => format!("{name}: listing and headers compared; no content was read\n"),
            false => format!(
                "{name}: {} objects and {} bases read, {} of content checked\n",
                self.objects,
                self.bases,
                time::bytes(self.bytes)
            ),
        };
        for damaged in self.damaged.iter().take(SHOWN_DAMAGES) {
            out.push_str(&format!("  DAMAGED {}: {}\n", damaged.object, damaged.what));
            for part in damaged.affects.iter().take(SHOWN_DAMAGES) {
                out.push_str(&format!("          affects {part}\n"));
            }
        }
        if self.damaged.len() > SHOWN_DAMAGES {
            out.push_str(&format!("  and {} more: pitr verify {name} -o json\n", self.damaged.len() - SHOWN_DAMAGES));
        }
        if self.damaged.is_empty() && self.gaps.is_empty() {
            out.push_str("  no damage, no gap\n");
        }
        out
    }

    fn data(&self, name: &str) -> Value {
        json!({
            "source": name, "objects": self.objects, "bases": self.bases, "bytes": self.bytes, "gaps": self.gaps,
            "damaged": self.damaged.iter().map(|damaged| json!({
                "object": damaged.object, "what": damaged.what, "affects": damaged.affects,
            })).collect::<Vec<_>>(),
        })
    }
}
