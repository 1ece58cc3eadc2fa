//! Timeline history files, and the lineages that timelines make.
//!
//! Two servers that recover from the same log may both choose "timeline 2". Their histories differ, so from
//! timeline 2 on a digest of the history file is part of the lineage's name, and they never meet.

use pitr_core::{Facts, Fork, LineageId};

use crate::engine::facts;
use crate::error::Error;
use crate::limits::{MAX_HISTORY_FILE, PAGE_SIZE};
use crate::lsn::{Lsn, SegmentSize, TimelineId};
use crate::position::PgPosition;

/// How a timeline came to be: the content of its `.history` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline whose history it is.
    pub timeline: TimelineId,
    /// The timelines before it, oldest first; never empty.
    pub ancestors: Vec<Ancestor>,
    bytes: Vec<u8>,
    /// Length of the part that was the parent's own history file.
    parent_len: usize,
}

/// One line of a history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where.
    pub at: Lsn,
    /// Why, in the server's words.
    pub reason: String,
}

impl TimelineHistory {
    /// Reads a history file.
    ///
    /// # Errors
    /// [`Error::History`] with the line, if it is not exactly as a server writes it: timelines and positions
    /// go up, and the last timeline is older than the file's own.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self, Error> {
        let error = |line, what: &str| Error::History { timeline: timeline.0, line, what: what.to_owned() };
        if bytes.len() > MAX_HISTORY_FILE {
            return Err(error(0, "larger than 1 MiB"));
        }
        let mut ancestors: Vec<Ancestor> = Vec::new();
        let (mut offset, mut parent_len) = (0, 0);
        for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if let Some(ancestor) = parse_line(line).map_err(|what| error(index + 1, what))? {
                if let Some(before) = ancestors.last()
                    && (before.timeline >= ancestor.timeline || before.at > ancestor.at)
                {
                    return Err(error(index + 1, "timelines and positions must go up"));
                }
                ancestors.push(ancestor);
                parent_len = offset;
            }
            offset += line.len();
        }
        match ancestors.last() {
            None => Err(error(0, "names no timeline")),
            Some(last) if last.timeline >= timeline => Err(error(0, "names itself or a later timeline")),
            Some(_) => Ok(Self { timeline, ancestors, bytes: bytes.to_vec(), parent_len }),
        }
    }

    /// The timeline that was left, and where.
    pub fn parent(&self) -> (TimelineId, Lsn) {
        // Never empty, as `parse` made sure; a file without lines would name its own begin.
        self.ancestors.last().map_or((self.timeline, Lsn(0)), |last| (last.timeline, last.at))
    }

    /// The parent's own history file, byte for byte; `None` for timeline 1, which has none.
    ///
    /// A server writes a new history as the parent's file, a line end, and one line more.
    pub fn parent_file(&self) -> Option<&[u8]> {
        let (parent, _) = self.parent();
        let before = self.bytes.get(..self.parent_len)?;
        (parent > TimelineId::FIRST).then(|| before.strip_suffix(b"\n").unwrap_or(before))
    }

    /// The file as it was read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// One line: nothing, a comment, or timeline, position and reason.
fn parse_line(line: &[u8]) -> Result<Option<Ancestor>, &'static str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.trim_ascii_start();
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    // The reason may hold the name of a restore point, in any encoding.
    let text = String::from_utf8_lossy(line);
    let mut fields = text.splitn(3, '\t');
    let (timeline, at) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let plain = !timeline.is_empty() && timeline.bytes().all(|byte| byte.is_ascii_digit());
    let timeline = plain.then(|| timeline.parse().ok()).flatten().filter(|timeline| *timeline > 0);
    let timeline = timeline.map(TimelineId).ok_or("expected a timeline number, a tab and an LSN")?;
    let at = at.trim_end().parse().map_err(|_| "expected an LSN such as 0/4002098 after the timeline")?;
    Ok(Some(Ancestor { timeline, at, reason: fields.next().unwrap_or_default().to_owned() }))
}

/// The name of the lineage that `timeline` of the cluster is.
///
/// `<system id>.<timeline %08X>`, and from timeline 2 on `.<first 8 hex digits>` of `digest` over the history
/// file. The digest is keyed by the archive, so the name tells an outsider nothing of the history.
///
/// # Errors
/// [`Error::History`] if a timeline after the first comes without its history file.
pub fn lineage_id(
    system_id: u64,
    timeline: TimelineId,
    history: Option<&[u8]>,
    digest: impl Fn(&[u8]) -> [u8; 32],
) -> Result<LineageId, Error> {
    let stem = format!("{system_id}.{:08X}", timeline.0);
    if timeline == TimelineId::FIRST {
        return Ok(LineageId::new(stem)?);
    }
    let history = history.ok_or_else(|| Error::History {
        timeline: timeline.0,
        line: 0,
        what: "is missing, and without it the timeline cannot be told from another of the same number".to_owned(),
    })?;
    let [a, b, c, d, ..] = digest(history);
    Ok(LineageId::new(format!("{stem}.{a:02x}{b:02x}{c:02x}{d:02x}"))?)
}

/// Where the timeline left its parent, as archive and planner want to know it.
///
/// # Errors
/// As [`lineage_id`].
pub fn fork(
    system_id: u64,
    history: &TimelineHistory,
    digest: impl Fn(&[u8]) -> [u8; 32],
) -> Result<Fork<PgPosition>, Error> {
    let (parent, at) = history.parent();
    Ok(Fork {
        parent: lineage_id(system_id, parent, history.parent_file(), digest)?,
        parent_at: PgPosition::new(parent, at),
        child_at: PgPosition::new(history.timeline, at),
    })
}

/// What the archive notes of a lineage.
pub fn lineage_facts(system_id: u64, timeline: TimelineId, segment_size: SegmentSize, version: u32) -> Facts {
    Facts::from([
        (facts::SYSTEM_ID.to_owned(), system_id.to_string()),
        (facts::TIMELINE.to_owned(), timeline.to_string()),
        (facts::SEGMENT_SIZE.to_owned(), segment_size.bytes().to_string()),
        (facts::PAGE_SIZE.to_owned(), PAGE_SIZE.to_string()),
        (facts::VERSION.to_owned(), version.to_string()),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Of PostgreSQL 15: two promotions in a row, the first at a restore point.
    const SECOND: &[u8] = b"1\t0/4002098\tat restore point \"rp1\"\n";
    const THIRD: &[u8] = b"1\t0/4002098\tat restore point \"rp1\"\n\n2\t0/5000158\tno recovery target specified\n";

    fn digest(bytes: &[u8]) -> [u8; 32] {
        [u8::try_from(bytes.len()).unwrap(); 32]
    }

    #[test]
    fn a_history_tells_parent_and_fork() {
        let history = TimelineHistory::parse(TimelineId(3), THIRD).unwrap();
        assert_eq!(history.parent(), (TimelineId(2), "0/5000158".parse().unwrap()));
        assert_eq!(history.ancestors[0].reason, "at restore point \"rp1\"");
        let fork = fork(7, &history, digest).unwrap();
        assert_eq!(fork.parent_at.to_string(), "2:0/5000158");
        assert_eq!(fork.child_at.to_string(), "3:0/5000158");
    }

    #[test]
    fn the_parents_own_file_is_found_inside_the_childs() {
        let third = TimelineHistory::parse(TimelineId(3), THIRD).unwrap();
        assert_eq!(third.parent_file(), Some(SECOND));
        let second = TimelineHistory::parse(TimelineId(2), SECOND).unwrap();
        assert_eq!(second.parent_file(), None);
        assert_eq!(
            fork(7, &third, digest).unwrap().parent,
            lineage_id(7, TimelineId(2), Some(SECOND), digest).unwrap()
        );
    }

    #[test]
    fn two_timelines_of_one_number_are_two_lineages() {
        let id = |history: &[u8]| lineage_id(7, TimelineId(2), Some(history), digest).unwrap();
        assert_eq!(id(SECOND).to_string(), "7.00000002.23232323");
        assert_ne!(id(SECOND), id(b"1\t0/4002098\tother\n"));
        assert_eq!(lineage_id(7, TimelineId(1), None, digest).unwrap().to_string(), "7.00000001");
        assert!(lineage_id(7, TimelineId(2), None, digest).is_err());
    }

    #[test]
    fn what_a_server_would_not_follow_is_refused_with_its_line() {
        for (bytes, line) in [
            (&b""[..], 0),
            (b"# nothing\n", 0),
            (b"1 0/4002098\n", 1),
            (b"one\t0/4\tx\n", 1),
            (b"1\t4002098\tx\n", 1),
            (b"0\t0/4\tx\n", 1),
            (b"2\t0/4\tx\n1\t0/5\tx\n", 2),
            (b"1\t0/5\tx\n2\t0/4\tx\n", 2),
            (b"5\t0/5\tx\n", 0),
        ] {
            match TimelineHistory::parse(TimelineId(5), bytes) {
                Err(Error::History { line: found, .. }) => assert_eq!(found, line, "{bytes:?}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn comments_and_blank_lines_are_no_history() {
        let history = TimelineHistory::parse(TimelineId(2), b"# by hand\n\n1\t0/4\t").unwrap();
        assert_eq!(history.ancestors.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            if let Ok(history) = TimelineHistory::parse(TimelineId(9), &bytes) {
                proptest::prop_assert!(history.parent().0 < TimelineId(9));
            }
        }
    }
}
