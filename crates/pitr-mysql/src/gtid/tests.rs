#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const B: &str = "a1b2c3d4-0000-0000-0000-000000000001";

fn set(text: &str) -> MysqlSet {
    text.parse().unwrap()
}

#[test]
fn what_the_server_writes_is_read_and_written_again() {
    for text in [
        String::new(),
        format!("{A}:1"),
        format!("{A}:1-5:9:11-12"),
        format!("{A}:1-5:backup:1-3:9:other:7,{B}:2-4"),
        format!("{A}:backup:1-3"),
    ] {
        assert_eq!(set(&text).to_string(), text);
        assert_eq!(MysqlSet::decode(&set(&text).encode()), Ok(set(&text)), "{text}");
    }
    assert_eq!(set(&format!("{A}:5-9:1-4,\n{} : 2", B.to_uppercase())).to_string(), format!("{A}:1-9,{B}:2"));
}

#[test]
fn anything_else_is_refused() {
    for text in [
        A.to_owned(),
        format!("{A}:"),
        format!("{A}:0"),
        format!("{A}:5-4"),
        format!("{A}:tag"),
        format!("{A}:1-5:tag"),
    ] {
        assert!(text.parse::<MysqlSet>().is_err(), "{text}");
    }
    for text in ["0-1", "0-1-2-3", "-1-2", "0-1-x", "4294967296-1-1", ""] {
        assert!(text.parse::<MariaGtid>().is_err(), "{text}");
    }
    for text in [format!("{A}:1-5"), format!("{A}::5"), format!("{A}:9223372036854775807"), "x:1".to_owned()] {
        assert!(text.parse::<MysqlGtid>().is_err(), "{text}");
    }
}

#[test]
fn sets_are_ordered_by_inclusion() {
    assert!(set(&format!("{A}:1-5")) < set(&format!("{A}:1-6")));
    assert!(set("") < set(&format!("{A}:1")));
    assert_eq!(set(&format!("{A}:1-5")).partial_cmp(&set(&format!("{A}:2-6"))), None);
    assert_eq!(set(&format!("{A}:1-5")).partial_cmp(&set(&format!("{B}:1-5"))), None);
    assert_eq!(set(&format!("{A}:1-5")).partial_cmp(&set(&format!("{A}:t:1-5"))), None, "a tag counts by itself");
    let maria = |text: &str| text.parse::<MariaSet>().unwrap();
    assert!(maria("0-1-5") < maria("0-2-6"), "who committed does not matter for how far");
    assert!(maria("0-1-5") < maria("0-1-5,1-1-1"));
    assert_eq!(maria("0-1-5,1-1-1").partial_cmp(&maria("0-1-6")), None);
    assert_eq!(maria("0-1-5").partial_cmp(&maria("0-2-5")), None, "two histories that went apart");
}

#[test]
fn one_text_belongs_to_one_family() {
    assert!(matches!("0-1-5".parse(), Ok(GtidSet::Maria(_))));
    assert!(matches!(format!("{A}:1").parse(), Ok(GtidSet::Mysql(_))));
    assert!(matches!("0-1-5".parse(), Ok(Gtid::Maria(MariaGtid { domain: 0, server: 1, sequence: 5 }))));
    assert!(matches!(format!("{A}:backup:7").parse(), Ok(Gtid::Mysql(gtid)) if gtid.tag.as_str() == "backup"));
}

/// Numbers as bits, the plainest set there is.
fn bits(set: &Intervals) -> u64 {
    (0..64).filter(|number| set.contains(*number)).fold(0, |bits, number| bits | 1 << number)
}

proptest! {
    #[test]
    fn intervals_behave_like_sets(steps in prop::collection::vec((any::<bool>(), 1u64..64, 1u64..64), 0..40)) {
        let (mut set, mut truth) = (Intervals::default(), 0u64);
        for (add, start, end) in steps {
            let range = (0..64).filter(|n| (start..end).contains(n)).fold(0, |bits, n| bits | 1u64 << n);
            if add {
                set.insert(start, end);
                truth |= range;
            } else {
                set.remove(start, end);
                truth &= !range;
            }
            prop_assert_eq!(bits(&set), truth);
            prop_assert_eq!(set.count(), u64::from(truth.count_ones()));
            let list: Vec<_> = set.iter().collect();
            prop_assert!(list.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", list);
        }
    }

    #[test]
    fn subsets_are_told(a in prop::collection::vec((1u64..64, 1u64..64), 0..6), b in prop::collection::vec((1u64..64, 1u64..64), 0..6)) {
        let make = |ranges: &[(u64, u64)]| ranges.iter().fold(Intervals::default(), |mut set, (s, e)| { set.insert(*s, *e); set });
        let (a, b) = (make(&a), make(&b));
        prop_assert_eq!(a.is_subset(&b), bits(&a) & !bits(&b) == 0);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(set) = MysqlSet::decode(&bytes) {
            prop_assert_eq!(MysqlSet::decode(&set.encode()), Ok(set));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[0-9a-f:,\\- a-z]{0,60}") {
        if let Ok(set) = text.parse::<GtidSet>() {
            prop_assert_eq!(set.to_string().parse::<GtidSet>().map(|again| again == set || set.is_empty()), Ok(true));
        }
    }
}
