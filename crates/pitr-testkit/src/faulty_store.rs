//! An object store that fails on purpose: each call before its effect, or after it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// When a failing call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing happened in the store.
    BeforeEffect,
    /// It happened, and the answer was lost.
    AfterEffect,
}

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Faults {
    /// The call of this number, counted from 1, and all after it: the store went away.
    From(u64, Moment),
    /// The call of this number alone: a passing fault.
    Once(u64, Moment),
    /// Each call with this probability (0 to 1), half of them after their effect. The seed replays the run.
    Random {
        /// Probability of a failure.
        rate: f64,
        /// Replays the same faults for the same order of calls.
        seed: u64,
    },
}

/// Wraps a store and makes some of its calls fail with a passing fault (a reset connection).
///
/// # Contract
/// A call that fails before its effect leaves the store as it was; one that fails after it has the whole
/// effect. The inner store is never asked for anything that the caller did not ask for.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Faults,
    calls: AtomicU64,
}

impl FaultyStore {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn ObjectStore>, faults: Faults) -> Self {
        Self { inner, faults, calls: AtomicU64::new(0) }
    }

    /// Calls made so far, failed ones included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts a call; tells whether and when it fails.
    fn next(&self) -> Option<Moment> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        match self.faults {
            Faults::From(first, moment) => (call >= first).then_some(moment),
            Faults::Once(number, moment) => (call == number).then_some(moment),
            Faults::Random { rate, seed } => {
                let draw = mixed(seed ^ mixed(call));
                let moment = if draw & 1 == 0 { Moment::BeforeEffect } else { Moment::AfterEffect };
                ((draw >> 11) as f64 / (1_u64 << 53) as f64 <= rate).then_some(moment)
            }
        }
    }

    async fn call<T>(&self, effect: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next() {
            Some(Moment::BeforeEffect) => Err(reset()),
            Some(Moment::AfterEffect) => {
                // Its answer is lost, whatever it was.
                let _ = effect.await;
                Err(reset())
            }
            None => effect.await,
        }
    }
}

/// The finaliser of SplitMix64: neighbouring numbers become unrelated ones.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn reset() -> Error {
    let source = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "fault on purpose");
    Error::Generic { store: "faulty", source: source.into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.call(self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call(self.inner.put_multipart_opts(location, options)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.call(self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.next() {
            None => self.inner.delete_stream(locations),
            Some(Moment::BeforeEffect) => stream::iter([Err(reset())]).boxed(),
            Some(Moment::AfterEffect) => {
                self.inner.delete_stream(locations).map(|answer| answer.and_then(|_| Err(reset()))).boxed()
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing = self.inner.list(prefix);
        match self.next() {
            None => listing,
            Some(Moment::BeforeEffect) => stream::iter([Err(reset())]).boxed(),
            // Half a listing, and then the connection is gone.
            Some(Moment::AfterEffect) => listing.take(1).chain(stream::iter([Err(reset())])).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.call(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call(self.inner.copy_opts(from, to, options)).await
    }
}
