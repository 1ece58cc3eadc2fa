//! From a URL and options to a store.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use crate::error::{Error, Result};
use crate::limits;
use crate::local::LocalStore;
use crate::store::{Store, attributes};

/// Our own option, beside those of the store.
const STORAGE_CLASS: &str = "storage_class";

pub(crate) fn open(text: &str, options: &BTreeMap<String, String>) -> Result<Store> {
    let bad = |why: String| Error::Config { what: format!("url {text:?}"), why };
    let url = Url::parse(text).map_err(|e| bad(e.to_string()))?;
    if url.scheme() == "file" && !text.starts_with("file:///") {
        // The parser would take file:name for /name.
        return Err(bad("expected file:///directory".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Config {
            what: "url".to_owned(),
            why: "it holds credentials; give them in the environment".to_owned(),
        });
    }
    // All of the program speaks TLS through ring; an error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut options = options.clone();
    let attributes = attributes(options.remove(STORAGE_CLASS));
    let prefix = || Path::from_url_path(url.path()).map_err(|e| bad(e.to_string()));
    let (objects, root) = match url.scheme() {
        "file" => {
            no_options(&options, "a directory")?;
            let directory = url.to_file_path().map_err(|()| bad("expected file:///directory".to_owned()))?;
            let root = Path::from_absolute_path(&directory).map_err(|e| bad(e.to_string()))?;
            (Arc::new(LocalStore::new(directory)) as Arc<dyn ObjectStore>, root)
        }
        "memory" => {
            no_options(&options, "memory")?;
            (Arc::new(object_store::memory::InMemory::new()) as Arc<dyn ObjectStore>, Path::default())
        }
        "s3" => (s3(text, &options)?, prefix()?),
        "az" => (azure(text, &options)?, prefix()?),
        "gs" => (google(text, &options)?, prefix()?),
        other => return Err(bad(format!("unknown scheme {other:?}: use file, s3, az or gs"))),
    };
    Ok(Store::new(objects, root, text, attributes))
}

fn s3(url: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = AmazonS3Builder::from_env().with_url(url).with_retry(one_try());
    for (key, value) in with_defaults(options) {
        builder = builder.with_config(option::<AmazonS3ConfigKey>(&key)?, value);
    }
    built(url, builder.build())
}

fn azure(url: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(url).with_retry(one_try());
    for (key, value) in with_defaults(options) {
        builder = builder.with_config(option::<AzureConfigKey>(&key)?, value);
    }
    built(url, builder.build())
}

fn google(url: &str, options: &BTreeMap<String, String>) -> Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(one_try());
    for (key, value) in with_defaults(options) {
        builder = builder.with_config(option::<GoogleConfigKey>(&key)?, value);
    }
    built(url, builder.build())
}

fn built<T: ObjectStore>(url: &str, store: object_store::Result<T>) -> Result<Arc<dyn ObjectStore>> {
    match store {
        Ok(store) => Ok(Arc::new(store)),
        Err(e) => Err(Error::Config { what: format!("url {url:?}"), why: e.to_string() }),
    }
}

/// Repeating is done in one place for all stores, see [`crate::retry::Retry`].
fn one_try() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: limits::REQUEST_TIMEOUT, ..Default::default() }
}

fn with_defaults(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let seconds = |time: std::time::Duration| format!("{} seconds", time.as_secs());
    let mut all = BTreeMap::from([
        ("timeout".to_owned(), seconds(limits::REQUEST_TIMEOUT)),
        ("connect_timeout".to_owned(), seconds(limits::CONNECT_TIMEOUT)),
    ]);
    all.extend(options.iter().map(|(key, value)| (key.to_ascii_lowercase(), value.clone())));
    all
}

fn option<K: FromStr>(key: &str) -> Result<K> {
    key.parse()
        .map_err(|_| Error::Config { what: format!("option {key:?}"), why: "this store has no such option".to_owned() })
}

fn no_options(options: &BTreeMap<String, String>, store: &str) -> Result<()> {
    match options.keys().next() {
        Some(key) => Err(Error::Config { what: format!("option {key:?}"), why: format!("{store} has no options") }),
        None => Ok(()),
    }
}
