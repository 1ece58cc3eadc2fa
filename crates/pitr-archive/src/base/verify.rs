//! Reads a whole base back and checks it, without writing anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use pitr_core::{BaseId, Classify, ErrorKind};

use super::deliver::{each_chunk, wrong_length};
use super::fetch::FetchedPack;
use super::limits::{DAMAGED_PARTS, DAMAGES};
use super::packer::lock;
use super::reader::{OpenBase, joined};
use super::window::{Group, Want, Window};
use crate::blocking::in_place;
use crate::error::{Error, Result};
use crate::source::SourceArchive;

/// What a verification of a base found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseCheck {
    /// The base.
    pub base: BaseId,
    /// Parts that were checked, directories included.
    pub parts: u64,
    /// Bytes of content whose digest was right.
    pub bytes: u64,
    /// Damaged and missing objects, by key; empty for a sound base. At most a thousand are listed.
    pub damages: Vec<Damage>,
    /// Number of further ones that are not listed.
    pub more: u64,
}

impl BaseCheck {
    /// True if every byte of the base can be restored.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty() && self.more == 0
    }
}

/// One damaged or missing object of a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object.
    pub key: String,
    /// What is wrong with it, first finding only.
    pub what: String,
    /// Paths of parts that cannot be restored whole; at most a hundred are named. Empty where the object says
    /// which parts there are, so that their names are lost with it.
    pub parts: Vec<String>,
    /// Number of further damaged pieces of parts that are not named.
    pub more: u64,
}

/// Reads everything that a base consists of and checks each digest.
///
/// # Errors
/// Only what keeps it from finding out: no such base, no identity, a store that does not answer. Damage is
/// not an error but the result.
pub async fn verify(source: &SourceArchive, base: &BaseId) -> Result<BaseCheck> {
    let mut findings = Findings::default();
    match OpenBase::open(source, base).await {
        Ok(open) => open.verify(&mut findings).await?,
        Err(error) => findings.add_object(error)?,
    }
    Ok(findings.into_check(base.clone()))
}

impl OpenBase<'_> {
    async fn verify(&self, findings: &mut Findings) -> Result<()> {
        let mut windows = self.windows().tolerant();
        while let Some(window) = windows.next(&|_| true).await? {
            findings.parts += window.parts.iter().filter(|part| part.ends).count() as u64;
            // One pack is read while the one before it is checked.
            let mut ahead = None;
            for group in &window.groups {
                let fetch = self.fetch(group.pack);
                if let Some((group, fetch)) = ahead.replace((group, fetch)) {
                    self.verify_group(&window, group, fetch, findings).await?;
                }
            }
            if let Some((group, fetch)) = ahead {
                self.verify_group(&window, group, fetch, findings).await?;
            }
        }
        windows.skipped().into_iter().try_for_each(|(_, error)| findings.add_object(error))
    }

    async fn verify_group(
        &self,
        window: &Window,
        group: &Group,
        fetch: Result<tokio::task::JoinHandle<Result<FetchedPack>>>,
        findings: &mut Findings,
    ) -> Result<()> {
        let pack = match fetch {
            Ok(fetch) => joined(fetch, &self.base).await,
            Err(error) => Err(error),
        };
        match pack {
            Ok(pack) => {
                let shared = Mutex::new(findings);
                in_place(|| {
                    each_chunk(self.objects, &pack, &group.wants, |wants, content| {
                        let outcome = content.and_then(|content| check_lengths(&pack, wants, content));
                        lock(&shared).note(window, wants, outcome)
                    })
                })
            }
            Err(error) => findings.note(window, &group.wants, Err(error)),
        }
    }
}

/// Bytes of all places of one chunk, if the index and the pack agree about its length.
fn check_lengths(pack: &FetchedPack, wants: &[Want], content: &[u8]) -> Result<u64> {
    match wants.iter().find(|want| want.raw as usize != content.len()) {
        Some(want) => Err(wrong_length(pack, want, content)),
        None => Ok((wants.len() * content.len()) as u64),
    }
}

/// What was found so far, in bounded memory.
#[derive(Debug, Default)]
struct Findings {
    parts: u64,
    bytes: u64,
    damages: BTreeMap<String, Found>,
    unlisted: u64,
}

#[derive(Debug, Default)]
struct Found {
    what: String,
    parts: BTreeSet<String>,
    more: u64,
}

impl Findings {
    fn note(&mut self, window: &Window, wants: &[Want], outcome: Result<u64>) -> Result<()> {
        match outcome {
            Ok(bytes) => self.bytes += bytes,
            Err(error) => {
                let Some(found) = self.add(error)? else { return Ok(()) };
                for want in wants {
                    let Some(part) = window.parts.get(want.part as usize) else { continue };
                    if found.parts.len() < DAMAGED_PARTS {
                        found.parts.insert(part.info.path.clone());
                    } else if !found.parts.contains(&part.info.path) {
                        found.more += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes an object that is damaged as a whole.
    fn add_object(&mut self, error: Error) -> Result<()> {
        self.add(error).map(|_| ())
    }

    /// The entry of the object that `error` names; an error that is no damage is passed on.
    fn add(&mut self, error: Error) -> Result<Option<&mut Found>> {
        let key = match &error {
            Error::Corrupt { key, .. } | Error::Missing { key, .. } => key.clone(),
            _ if error.kind() == ErrorKind::Integrity => String::new(),
            _ => return Err(error),
        };
        if self.damages.len() >= DAMAGES && !self.damages.contains_key(&key) {
            self.unlisted += 1;
            return Ok(None);
        }
        let found = self.damages.entry(key).or_insert_with(|| Found { what: error.to_string(), ..Found::default() });
        Ok(Some(found))
    }

    fn into_check(self, base: BaseId) -> BaseCheck {
        let damage = |(key, found): (String, Found)| Damage {
            key,
            what: found.what,
            parts: found.parts.into_iter().collect(),
            more: found.more,
        };
        BaseCheck {
            base,
            parts: self.parts,
            bytes: self.bytes,
            damages: self.damages.into_iter().map(damage).collect(),
            more: self.unlisted,
        }
    }
}
