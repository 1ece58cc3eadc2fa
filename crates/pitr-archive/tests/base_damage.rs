//! Damaged and missing objects of a base: detected, named, with the parts that are affected.
#![allow(clippy::unwrap_used)]

mod base_support;

use base_support::*;
use pitr_archive::base::{self, BaseWritten};
use pitr_core::{Classify, ErrorKind};
use pitr_testkit::toy::{Toy, ToyPosition};

async fn lab(encrypted: bool) -> (Lab, BaseWritten<ToyPosition>) {
    let lab = Lab::new(encrypted).await;
    let tree = Tree::from([file("a", noise(18 * CHUNK, 1)), file("b", noise(8_192, 2)), file("c", noise(8_192, 3))]);
    let written = lab.take(&tree).await;
    (lab, written)
}

/// Places all over an object: header, beginning of the payload, middle, end.
fn places(len: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..24).map(|n| n * (len - 1) / 23).collect();
    places.extend([7, 20, 60, 200]);
    places.retain(|place| *place < len);
    places
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_any_object_is_detected_and_the_object_named() {
    for encrypted in [false, true] {
        let (lab, written) = lab(encrypted).await;
        let id = written.base.id.as_str();
        let mut checked = 0;
        for key in lab.keys(id).await {
            let whole = lab.object(&key).await;
            for place in places(whole.len()) {
                let mut bad = whole.clone();
                bad[place] ^= 1 << (place % 8);
                lab.replace(&key, bad).await;
                let error = lab.pour(&written).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Integrity, "{key} at {place}: {error}");
                let check = base::verify(&lab.source, &written.base.id).await.unwrap();
                let named: Vec<_> = check.damages.iter().map(|damage| damage.key.as_str()).collect();
                assert_eq!(named, [key.as_str()], "bit {place}");
                checked += 1;
            }
            lab.replace(&key, whole).await;
        }
        // Two packs, the index, the list of packs and the manifest.
        assert!(checked > 5 * 20, "{checked}");
        assert!(base::verify(&lab.source, &written.base.id).await.unwrap().is_sound());
    }
}

#[tokio::test]
async fn a_missing_pack_is_reported_with_the_parts_that_need_it() {
    let (lab, written) = lab(true).await;
    let packs = lab.keys("/pack/").await;
    assert_eq!(packs.len(), 2);
    lab.remove(&packs[1]).await;
    let error = lab.pour(&written).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains(&packs[1]), "{error}");
    let check = base::verify(&lab.source, &written.base.id).await.unwrap();
    assert_eq!(check.damages.len(), 1);
    assert_eq!((&check.damages[0].key, check.damages[0].parts.join(" ")), (&packs[1], "a b c".to_owned()));
    assert!(check.bytes > 8_000_000, "{}", check.bytes);
}

#[tokio::test]
async fn an_object_under_the_name_of_another_is_detected() {
    let (lab, written) = lab(true).await;
    let packs = lab.keys("/pack/").await;
    let (first, second) = (lab.object(&packs[0]).await, lab.object(&packs[1]).await);
    lab.replace(&packs[0], second).await;
    lab.replace(&packs[1], first).await;
    let check = base::verify(&lab.source, &written.base.id).await.unwrap();
    assert_eq!(check.damages.len(), 2);
    assert_eq!(check.bytes, 0);
}

#[tokio::test]
async fn a_missing_index_object_or_list_of_packs_is_reported() {
    for (part, what) in [("/index/", "index"), ("/packs", "list of packs")] {
        let (lab, written) = lab(false).await;
        let key = lab.keys(part).await.remove(0);
        lab.remove(&key).await;
        assert_eq!(lab.pour(&written).await.unwrap_err().kind(), ErrorKind::Integrity, "{what}");
        let check = base::verify(&lab.source, &written.base.id).await.unwrap();
        assert_eq!(check.damages.iter().map(|damage| &damage.key).collect::<Vec<_>>(), [&key], "{what}");
    }
}

#[tokio::test]
async fn a_damaged_manifest_is_an_error_of_the_list_and_never_left_out() {
    let (lab, _) = lab(false).await;
    let key = lab.keys("/manifest").await.remove(0);
    let mut bytes = lab.object(&key).await;
    bytes[40] ^= 1;
    lab.replace(&key, bytes).await;
    let error = base::list::<Toy>(lab.archive.objects(), "shop").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains(&key), "{error}");
}

#[tokio::test]
async fn a_pack_that_vanished_is_stored_again_by_the_next_base() {
    let (lab, _) = lab(true).await;
    lab.remove(&lab.keys("/pack/").await[0]).await;
    let tree = Tree::from([file("a", noise(18 * CHUNK, 1))]);
    let next = lab.take(&tree).await;
    assert!(next.reused > 0 && next.reused < next.base.bytes);
    assert_eq!(lab.pour(&next).await.unwrap(), tree);
}
