//! Tails: bytes of a segment that is not sealed yet, made durable early and joined again when it is read.
//!
//! A tail is a piece `from..to` of the open segment, and its header says what was known of the whole segment up to
//! `to`. So the last piece that is reached without a hole tells everything, and nothing has to be merged. A writer that
//! starts again begins the segment anew; its pieces may overlap those of the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use pitr_core::ports::{SegmentStart, SegmentSummary};
use pitr_core::{LineageId, Position, SegmentName, Span};

use crate::envelope::{self, Header, Object};
use crate::error::{Error, Result};
use crate::layout::{is_strip, leaf, tail_name};
use crate::limits;
use crate::objects::{Kind, Payload, Put};
use crate::records::{SegmentFacts, TailFacts};
use crate::source::{SourceArchive, expect_kind};
use crate::store::Entry;
use crate::strip::Frame;

/// Bytes of a segment that is not sealed yet, from offset `from` on.
#[derive(Debug, Clone)]
pub struct Tail<P> {
    /// The history it belongs to.
    pub lineage: LineageId,
    /// The open segment.
    pub segment: SegmentStart<P>,
    /// Offset of its first byte within the segment, in bytes.
    pub from: u64,
    /// The native bytes.
    pub bytes: Bytes,
    /// What is known of the segment up to its last byte.
    pub so_far: SegmentSummary<P>,
}

/// A stored piece, as its key tells it, or its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    from: u64,
    to: u64,
    /// The key that its header names.
    key: String,
    /// Where else it lies than under that key.
    strip: Option<Place>,
}

/// A place in a strip.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    strip: String,
    object: Range<u64>,
}

/// Which segments of a lineage have tails.
#[derive(Debug)]
pub(crate) struct TailNames {
    /// All groups, in order.
    groups: Vec<String>,
    /// Leaf names of the newest groups.
    newest: BTreeMap<String, Vec<String>>,
}

impl SourceArchive {
    /// Makes bytes of an open segment durable before it is sealed.
    pub async fn put_tail<P: Position>(&self, tail: &Tail<P>) -> Result<Put> {
        let (key, facts) = self.tail_object(tail)?;
        self.objects().put(Kind::Tail, &key, &facts, Payload::Raw(tail.bytes.clone())).await
    }

    /// Key and facts of the object that a tail becomes.
    pub(crate) fn tail_object<P: Position>(&self, tail: &Tail<P>) -> Result<(String, TailFacts)> {
        let to = tail.from + tail.bytes.len() as u64;
        let name = &tail.segment.name;
        let key = self.layout().tail(&tail.lineage, name, tail.from, to);
        let segment = SegmentFacts {
            lineage: tail.lineage.clone(),
            group: name.group().to_owned(),
            leaf: name.leaf().to_owned(),
            start: tail.segment.start.to_string(),
            end: tail.so_far.end.to_string(),
            commits: tail.so_far.commits.clone(),
            marks: tail.so_far.marks,
            facts: tail.so_far.facts.clone(),
        };
        // The same check that a reader makes.
        segment.clone().span::<P>(&key, to)?;
        Ok((key, TailFacts { from: tail.from, to, segment }))
    }

    /// What the tails of a segment cover, as one span from its start; `None` if it has none that begins there.
    /// Needs no identity, and costs one listing and one small read however many there are.
    pub async fn tail_span<P: Position>(&self, lineage: &LineageId, name: &SegmentName) -> Result<Option<Span<P>>> {
        let Some(last) = joined(self.pieces(lineage, name).await?).pop() else { return Ok(None) };
        // What pruning removed since the listing was superseded.
        let Some(header) = self.piece_header(&last).await? else { return Ok(None) };
        expect_kind(&header, Kind::Tail)?;
        header.facts::<TailFacts>()?.segment.span(&last.key, last.to).map(Some)
    }

    /// What the tails of the last segment that has any cover, sealed or not: how far the log has arrived.
    pub async fn newest_tail<P: Position>(&self, lineage: &LineageId) -> Result<Option<Span<P>>> {
        match self.last_open_name(lineage).await? {
            Some(name) => self.tail_span(lineage, &name).await,
            None => Ok(None),
        }
    }

    /// The last segment by name that has tails, sealed or not.
    pub(crate) async fn last_open_name(&self, lineage: &LineageId) -> Result<Option<SegmentName>> {
        let groups = self.objects().groups(&self.layout().tails(lineage)).await?;
        for group in groups.iter().rev() {
            let leaves = self.objects().groups(&self.layout().group_tails(lineage, group)).await?;
            if let Some(leaf) = leaves.last() {
                return Ok(Some(SegmentName::new(group, leaf)?));
            }
        }
        Ok(None)
    }

    /// The native bytes of a segment as far as its tails go, checked; `None` if it has none that begins at its start.
    pub async fn open_segment(&self, lineage: &LineageId, name: &SegmentName) -> Result<Option<Bytes>> {
        let pieces = joined(self.pieces(lineage, name).await?);
        let mut bytes = BytesMut::new();
        for piece in &pieces {
            let object = self.piece(piece).await?;
            let object = object.ok_or_else(|| Error::corrupt(&piece.key, "it was listed and is gone"))?;
            expect_kind(&object.header, Kind::Tail)?;
            append(&mut bytes, piece, &object.raw)?;
        }
        Ok((!pieces.is_empty()).then(|| bytes.freeze()))
    }

    /// What there is of tails now.
    pub(crate) async fn newest_tail_names(&self, lineage: &LineageId) -> Result<TailNames> {
        let groups = self.objects().groups(&self.layout().tails(lineage)).await?;
        let mut newest = BTreeMap::new();
        for group in groups.iter().rev().take(limits::FRESH_GROUPS) {
            let leaves = self.objects().groups(&self.layout().group_tails(lineage, group)).await?;
            newest.insert(group.clone(), leaves);
        }
        Ok(TailNames { groups, newest })
    }

    /// The segments of a lineage that have tails and are in none of its `sealed` spans, in log order.
    ///
    /// Tails of sealed segments stay until they are pruned, so not every tail is looked at: an open segment can only
    /// be where the sealed log has a hole, or after its end. What is the newest was listed before the sealed log was.
    pub(crate) async fn open_segments<P: Position>(
        &self,
        lineage: &LineageId,
        sealed: &[Span<P>],
        listed: TailNames,
    ) -> Result<Vec<Span<P>>> {
        let TailNames { groups, mut newest } = listed;
        let mut open = Vec::new();
        for group in groups_with_holes(&groups, sealed) {
            let leaves = match newest.remove(group) {
                Some(leaves) => leaves,
                None => self.objects().groups(&self.layout().group_tails(lineage, group)).await?,
            };
            for leaf in leaves {
                let name = SegmentName::new(group, leaf)?;
                if sealed.iter().any(|span| span.first <= name && name <= span.last) {
                    continue;
                }
                let tail = self.tail_span::<P>(lineage, &name).await?;
                open.extend(tail.filter(|tail| !sealed.iter().any(|s| s.start <= tail.start && tail.end <= s.end)));
            }
        }
        Ok(open)
    }

    /// The pieces of one segment by a real listing, by offset.
    async fn pieces(&self, lineage: &LineageId, name: &SegmentName) -> Result<Vec<Piece>> {
        let entries = self.objects().list(&self.layout().segment_tails(lineage, name)).await?;
        let mut pieces = Vec::with_capacity(entries.len());
        for Entry { key, .. } in entries {
            match is_strip(&key) {
                true => pieces.extend(self.pieces_of_strip(lineage, name, &key).await?),
                false => pieces.push(piece_of_key(key)?),
            }
        }
        pieces.sort_by_key(|piece| (piece.from, piece.to));
        Ok(pieces)
    }

    async fn pieces_of_strip(&self, lineage: &LineageId, name: &SegmentName, strip: &str) -> Result<Vec<Piece>> {
        // What pruning removed since the listing was superseded.
        let Some(frames) = self.strip_frames(strip).await? else { return Ok(Vec::new()) };
        if let Some(at) = frames.damaged.first() {
            return Err(damaged_strip(strip, *at));
        }
        let piece = |Frame { from, to, object }| Piece {
            from,
            to,
            key: self.layout().tail(lineage, name, from, to),
            strip: Some(Place { strip: strip.to_owned(), object }),
        };
        Ok(frames.whole.into_iter().map(piece).collect())
    }

    async fn piece_header(&self, piece: &Piece) -> Result<Option<Header>> {
        let Some(place) = &piece.strip else { return self.objects().header(&piece.key).await };
        let Some(bytes) = self.objects().store().get_range(&place.strip, place.object.clone()).await? else {
            return Ok(None);
        };
        let (header, _) = envelope::check_stored(&piece.key, Some(self.objects().archive()), &bytes)?;
        Ok(Some(header))
    }

    async fn piece(&self, piece: &Piece) -> Result<Option<Object>> {
        let Some(place) = &piece.strip else { return self.objects().get(&piece.key).await };
        match self.objects().store().get_range(&place.strip, place.object.clone()).await? {
            Some(bytes) => self.objects().open(&piece.key, bytes).await.map(Some),
            None => Ok(None),
        }
    }

    /// Reads one object of the source below any key and checks everything about it, of a strip all its tails; gives the bytes
    /// of native content. `None` if it is gone.
    pub async fn check_object(&self, key: &str) -> Result<Option<u64>> {
        if !is_strip(key) {
            return Ok(self.objects().get(key).await?.map(|object| object.header.raw_bytes));
        }
        let Some(frames) = self.strip_frames(key).await? else { return Ok(None) };
        let mut native = 0;
        for Frame { from, to, object } in frames.whole {
            let tail = key.rsplit_once('/').map_or("", |(segment, _)| segment);
            let place = Some(Place { strip: key.to_owned(), object });
            let piece = Piece { from, to, key: format!("{tail}/{}", tail_name(from, to)), strip: place };
            let object = self.piece(&piece).await?;
            native += object.map_or(0, |object| object.header.raw_bytes);
        }
        match frames.damaged.first() {
            Some(at) => Err(damaged_strip(key, *at)),
            None => Ok(Some(native)),
        }
    }
}

fn piece_of_key(key: String) -> Result<Piece> {
    let range = leaf(&key).split_once('-');
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let range = range.and_then(|(from, to)| Some((number(from)?, number(to)?)));
    match range.filter(|(from, to)| from < to) {
        Some((from, to)) => Ok(Piece { from, to, key, strip: None }),
        None => Err(Error::corrupt(&key, "its name is not that of a tail")),
    }
}

fn damaged_strip(key: &str, at: u64) -> Error {
    Error::corrupt(key, format!("what lies at byte {at} is no tail"))
}

/// The fewest pieces that cover the most from offset 0 on without a hole; `pieces` are sorted by offset.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut chosen: Vec<Piece> = Vec::new();
    let mut pieces = pieces.into_iter().peekable();
    loop {
        let end = chosen.last().map_or(0, |last| last.to);
        let mut best: Option<Piece> = None;
        while let Some(piece) = pieces.next_if(|piece| piece.from <= end) {
            if piece.to > best.as_ref().map_or(end, |best| best.to) {
                best = Some(piece);
            }
        }
        match best {
            Some(best) => chosen.push(best),
            None => return chosen,
        }
    }
}

/// Appends a piece; where it overlaps what is there, it must say the same.
fn append(bytes: &mut BytesMut, piece: &Piece, raw: &[u8]) -> Result<()> {
    let overlap = bytes.len().saturating_sub(usize::try_from(piece.from).unwrap_or(usize::MAX));
    let seen = bytes.len().checked_sub(overlap).and_then(|from| bytes.get(from..));
    if raw.len() as u64 != piece.to - piece.from || raw.get(..overlap).is_none() || raw.get(..overlap) != seen {
        return Err(Error::corrupt(
            &piece.key,
            "it does not continue the tails before it: two writers had this segment",
        ));
    }
    bytes.extend_from_slice(raw.get(overlap..).unwrap_or_default());
    Ok(())
}

/// Groups in which an open segment can be: those in which a run of sealed segments ends, those that follow these, and
/// all after the last.
fn groups_with_holes<'a, P: Position>(groups: &'a [String], sealed: &[Span<P>]) -> BTreeSet<&'a str> {
    let runs = sealed.iter().zip(sealed.iter().skip(1).map(Some).chain([None]));
    let ends = runs.filter(|(span, next)| !next.is_some_and(|next| span.continued_by(next))).map(|(span, _)| span);
    let mut chosen = BTreeSet::new();
    for end in ends.clone() {
        let after = groups.partition_point(|group| group.as_str() < end.last.group());
        chosen.extend(groups.iter().skip(after).take(2).map(String::as_str));
    }
    let last = ends.last().map_or("", |span| span.last.group());
    let first = sealed.first().map_or("", |span| span.first.group());
    chosen.extend(groups.iter().map(String::as_str).filter(|group| *group > last || *group <= first));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(ranges: &[(u64, u64)]) -> Vec<Piece> {
        ranges
            .iter()
            .map(|(from, to)| Piece { from: *from, to: *to, key: format!("{from}-{to}"), strip: None })
            .collect()
    }

    fn covered(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        joined(pieces(ranges)).into_iter().map(|piece| (piece.from, piece.to)).collect()
    }

    #[test]
    fn pieces_join_from_the_start_of_the_segment_up_to_the_first_hole() {
        assert_eq!(covered(&[(0, 5), (5, 9), (12, 20)]), [(0, 5), (5, 9)]);
        assert_eq!(covered(&[(3, 5)]), []);
        assert_eq!(covered(&[]), []);
    }

    #[test]
    fn of_overlapping_pieces_the_fewest_are_read() {
        assert_eq!(covered(&[(0, 2), (0, 7), (2, 4), (4, 9), (7, 8)]), [(0, 7), (4, 9)]);
    }

    #[test]
    fn overlapping_pieces_with_other_bytes_are_two_writers() {
        let mut bytes = BytesMut::new();
        append(&mut bytes, &pieces(&[(0, 4)])[0], b"abcd").ok();
        assert!(append(&mut bytes, &pieces(&[(2, 6)])[0], b"cdef").is_ok());
        assert_eq!(&bytes[..], b"abcdef");
        assert!(append(&mut bytes, &pieces(&[(4, 8)])[0], b"Xfgh").is_err());
    }
}
