//! Comma lists: `size=1G,lazy_refcounts,noencryption,backing_file=a,,b`.
//!
//! A comma in a value is written twice. A key without a value is switched on, or off if `no` comes before it. Whether a
//! key exists is not known here.

/// One entry: the key as written, and its value. A key without one has `None`.
pub(crate) type Entry = (String, Option<String>);

/// The entries of a list, in their order.
pub(crate) fn split(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_at(rest.find([',', '=']).unwrap_or(rest.len()));
        let Some(after) = after.strip_prefix('=') else {
            entries.push((key.to_owned(), None));
            rest = after.strip_prefix(',').unwrap_or(after);
            continue;
        };
        let (value, after) = take_value(after);
        entries.push((key.to_owned(), Some(value)));
        rest = after;
    }
    entries
}

/// A value up to a single comma, and what follows that.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
        value.push_str(part);
        match after.strip_prefix(",,") {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, after.strip_prefix(',').unwrap_or(after)),
        }
    }
}

/// Whether the list can be joined with another: it is not empty and neither begins nor ends with a single comma.
pub(crate) fn is_joinable(text: &str) -> bool {
    let trailing = text.bytes().rev().take_while(|byte| *byte == b',').count();
    !text.is_empty() && !text.starts_with(',') && trailing % 2 == 0
}

/// Whether one of the entries asks for help.
pub(crate) fn asks_for_help(text: &str) -> bool {
    split(text).iter().any(|(key, value)| value.is_none() && matches!(key.as_str(), "help" | "?"))
}

/// A value with its commas doubled, as it can stand in a list.
pub(crate) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        let entry = |(key, value): &Entry| match value {
            Some(value) => format!("[{key}={value}]"),
            None => format!("[{key}]"),
        };
        split(text).iter().map(entry).collect()
    }

    #[test]
    fn commas_separate_unless_they_are_doubled() {
        assert_eq!(show("size=1G,lazy_refcounts,compat=v3"), "[size=1G][lazy_refcounts][compat=v3]");
        assert_eq!(show("backing_file=a,,b,size=1"), "[backing_file=a,b][size=1]");
        assert_eq!(show("f=a,,,,b"), "[f=a,,b]");
        assert_eq!(show("f=a,,,b=c"), "[f=a,][b=c]");
        assert_eq!(show("a=b=c"), "[a=b=c]");
        assert_eq!(show("a="), "[a=]");
        assert_eq!(show("a=,b="), "[a=][b=]");
    }

    #[test]
    fn a_list_that_cannot_be_joined_is_seen() {
        for text in ["", ",", "a,", ",a", "a=b,,,"] {
            assert!(!is_joinable(text), "{text}");
        }
        for text in ["a", "a=b,,", "a=,,b", "a,b"] {
            assert!(is_joinable(text), "{text}");
        }
    }

    #[test]
    fn help_may_be_anywhere_but_is_no_value() {
        assert!(asks_for_help("help"));
        assert!(asks_for_help("size=1,?"));
        assert!(!asks_for_help("backing_file=help"));
        assert!(!asks_for_help("helpful"));
    }

    #[test]
    fn an_escaped_value_comes_back() {
        let escaped = escape("a,,b,");
        let (value, rest) = take_value(&escaped);
        assert_eq!((value.as_str(), rest), ("a,,b,", ""));
    }
}
