//! [`Secrets`]: what `--object secret,id=...` defines, for images that are opened with a key.
//!
//! ```text
//!  secret,id=ID,data=TEXT[,format=raw|base64]     {"qom-type": "secret", "id": "ID", "file": "PATH"}
//! ```
//! `help` or `?` in a list asks what there is: an error, so that whoever reads a command line stops there; what to print instead
//! of it is [`help_in`] it.
//! The bytes are read when the object is defined; nothing is made of them before somebody asks by the id.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use drystone_base::{Error, Kind, Result};
use drystone_blockdev::options::Options;
use serde_json::Value;

use crate::args::list;

/// The most bytes of a secret's file: as for the keys that it can hold.
const FILE_BYTES_MAX: usize = 1 << 20;

/// What can be defined beside secrets, and is used by nothing here: what it says is not looked at.
const IDLE: [&str; 4] = ["authz-list", "authz-list-file", "authz-simple", "throttle-group"];

/// The properties of what can be defined. Limits of a group that is used by nothing are not looked at.
#[rustfmt::skip]
const PROPERTIES: [(&str, &[&str]); 5] = [
    ("authz-list", &["policy=<QAuthZListPolicy>", "rules=<QAuthZListRule>"]),
    ("authz-list-file", &["filename=<string>", "refresh=<bool>"]),
    ("authz-simple", &["identity=<string>"]),
    ("secret", &["data=<string>", "file=<string>", "format=<QCryptoSecretFormat>", "iv=<string>", "keyid=<string>"]),
    ("throttle-group", &[
        "limits=<ThrottleLimits>",
        "x-bps-read-max-length=<int>", "x-bps-read-max=<int>", "x-bps-read=<int>",
        "x-bps-total-max-length=<int>", "x-bps-total-max=<int>", "x-bps-total=<int>",
        "x-bps-write-max-length=<int>", "x-bps-write-max=<int>", "x-bps-write=<int>",
        "x-iops-read-max-length=<int>", "x-iops-read-max=<int>", "x-iops-read=<int>",
        "x-iops-size=<int>",
        "x-iops-total-max-length=<int>", "x-iops-total-max=<int>", "x-iops-total=<int>",
        "x-iops-write-max-length=<int>", "x-iops-write-max=<int>", "x-iops-write=<int>",
    ]),
];

/// Somebody asks what can be defined.
#[derive(Debug, thiserror::Error)]
#[error("help is asked for")]
struct AsksForHelp(String);

/// What to print instead of an error, if it is a question.
pub(crate) fn help_in(error: &Error) -> Option<&str> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<AsksForHelp>().map(|AsksForHelp(text)| text.as_str())
}

fn help(definition: &str) -> String {
    let kind = list::split(definition).into_iter().next().map(|(key, value)| value.unwrap_or(key));
    let lines = |title: String, names: Vec<&str>| -> String {
        std::iter::once(title).chain(names.into_iter().map(|name| format!("  {name}\n"))).collect()
    };
    match PROPERTIES.iter().find(|(name, _)| Some(*name) == kind.as_deref()) {
        Some((name, properties)) => lines(format!("{name} options:\n"), properties.to_vec()),
        None => {
            lines("List of user creatable objects:\n".to_owned(), PROPERTIES.map(|(name, _)| name).to_vec())
        }
    }
}

/// Secrets by their ids; `None` for objects that nothing uses.
#[derive(Debug, Default)]
pub(crate) struct Secrets(BTreeMap<String, Option<Secret>>);

/// One secret.
pub(crate) struct Secret {
    #[expect(dead_code, reason = "for encryption, which no format here has yet")]
    bytes: Vec<u8>,
    is_base64: bool,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_base64 { "Secret(base64)" } else { "Secret" })
    }
}

impl Secrets {
    /// Defines one more, in the words of `--object`.
    ///
    /// # Errors
    /// Other objects, which are not supported; what is missing or wrong; a file that cannot be read; a question ([`help_in`]).
    pub(crate) fn define(&mut self, definition: &OsStr) -> Result<()> {
        let text = definition.to_str().ok_or_else(|| invalid("the definition is no valid text"))?;
        if !text.starts_with('{') && list::asks_for_help(text) {
            return Err(invalid("help is asked for").because(AsksForHelp(help(text))));
        }
        let mut options = options(text)?;
        let kind = options.take_text("qom-type")?.unwrap_or_default();
        let is_idle = IDLE.contains(&kind.as_str());
        if kind != "secret" && !is_idle {
            let text = format!("objects of type '{kind}' are not supported");
            return Err(Error::new(Kind::Unsupported, text).in_option("object"));
        }
        let id = options.take_text("id")?.ok_or_else(|| invalid("an object needs an 'id'"))?;
        if !is_identifier(&id) {
            let text = format!("'{id}' is no identifier: a letter, then letters, digits, '-', '.' and '_'");
            return Err(invalid(&text));
        }
        let object = if is_idle {
            None
        } else {
            let secret = Secret::parse(&mut options)?;
            options.finish("secret")?;
            Some(secret)
        };
        if self.0.contains_key(&id) {
            let text = format!("there is an object '{id}' already");
            return Err(Error::new(Kind::AlreadyExists, text).in_option("object"));
        }
        self.0.insert(id, object);
        Ok(())
    }
}

impl Secret {
    fn parse(options: &mut Options) -> Result<Self> {
        let formats = [("raw", false), ("base64", true)];
        let is_base64 = options.take_choice("format", &formats)?.unwrap_or(false);
        if options.has("keyid") || options.has("iv") {
            let text = "secrets that are encrypted themselves are not supported";
            return Err(Error::new(Kind::Unsupported, text).in_option("object"));
        }
        let bytes = match (options.take_text("data")?, options.take_text("file")?) {
            (Some(data), None) => data.into_bytes(),
            (None, Some(file)) => drystone_sys::load_file(Path::new(&file), FILE_BYTES_MAX)?,
            (None, None) => return Err(invalid("a secret needs 'data' or 'file'")),
            (Some(_), Some(_)) => return Err(invalid("a secret has either 'data' or 'file'")),
        };
        Ok(Self { bytes, is_base64 })
    }
}

/// The options of an object: JSON, or a list whose first word is the type.
fn options(text: &str) -> Result<Options> {
    if text.starts_with('{') {
        return Options::from_json(text);
    }
    let mut options = Options::default();
    for (index, (key, value)) in list::split(text).into_iter().enumerate() {
        match value {
            Some(value) => options.set(&key, Value::String(value))?,
            None if index == 0 => options.set("qom-type", key)?,
            None => return Err(invalid(&format!("'{key}' has no value"))),
        }
    }
    Ok(options)
}

fn is_identifier(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

fn invalid(text: &str) -> Error {
    Error::new(Kind::InvalidInput, text).in_option("object")
}
