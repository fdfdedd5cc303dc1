//! What two runs of a command line have to print alike: [`normalised`], less times of day and the places of clusters in a
//! file, which are another order of the same (docs/differences.md, "where new clusters go").

use serde_json::Value;

use crate::common::normalised;

/// What is compared.
pub(super) fn shown(printed: &str) -> String {
    if let Some(map) = printed.starts_with("[{ \"start\"").then(|| without_places(printed)).flatten() {
        return map;
    }
    if printed.starts_with("Offset          Length") {
        // The same as the other map, which has more in it.
        return "(table)\n".to_owned();
    }
    // Some is behind lines that end in the middle: how far a command is.
    let is_text = |line: &&str| !is_place(line.trim_start());
    let lines: Vec<String> =
        normalised(printed).split_inclusive('\n').filter(is_text).map(without_date).collect();
    lines.concat()
}

/// Lines about where a file ends, and in what order its clusters are.
fn is_place(line: &str) -> bool {
    ["Image end offset: ", "\"image-end-offset\": ", "\"fragmented-clusters\": ", "file length: ", "\"date-", "\"virtual-size\": "]
        .iter()
        .any(|start| line.starts_with(start))
        // Of the disk itself, it is said behind the name.
        && !line.starts_with("\"virtual-size\": 0")
}

fn without_date(line: &str) -> String {
    if line.contains("% allocated, ") {
        // "16/16 = 100.00% allocated, 0.00% fragmented, ..."
        return line
            .split(", ")
            .map(|part| if part.contains("% fragmented") { "..." } else { part })
            .collect::<Vec<_>>()
            .join(", ");
    }
    let is_date = |word: &str| word.len() == 10 && word.starts_with("20") && word.matches('-').count() == 2;
    let is_time = |word: &str| word.len() == 8 && word.matches(':').count() == 2;
    let words = line.split(' ').map(|word| if is_date(word) || is_time(word) { "..." } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// A map without offsets, and without what the file has as holes inside of clusters; extents that are one then are made one.
fn without_places(map: &str) -> Option<String> {
    let extents: Vec<Value> = serde_json::from_str(map).ok()?;
    let mut merged: Vec<Value> = Vec::new();
    let about =
        |extent: &Value| ["depth", "present", "zero", "data", "compressed"].map(|key| extent[key].clone());
    for mut extent in extents {
        extent.as_object_mut()?.remove("offset");
        if extent["data"] == true {
            extent["zero"] = false.into();
        }
        match merged.last_mut().filter(|last| about(last) == about(&extent)) {
            Some(last) => last["length"] = (last["length"].as_u64()? + extent["length"].as_u64()?).into(),
            None => merged.push(extent),
        }
    }
    Some(merged.iter().map(|extent| format!("{extent}\n")).collect())
}
