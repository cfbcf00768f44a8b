//! Keeps the arrows inside engine: a module uses only those below it (DESIGN section 2).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What each module of the crate may use, besides itself.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let base = vec!["ids", "time", "error", "limits"];
    let with = |more: &[&'static str]| [base.as_slice(), more].concat();
    BTreeMap::from([
        ("ids", vec![]),
        ("time", vec![]),
        ("error", vec![]),
        ("limits", vec![]),
        ("proto", base.clone()),
        ("path", base.clone()),
        ("acl", with(&["proto", "path"])),
        ("txn", with(&["proto"])),
        ("tree", with(&["proto", "txn", "path"])),
        ("msg", with(&["proto", "tree"])),
        ("watch", with(&["proto", "path", "tree"])),
        ("session", vec!["ids", "time"]),
        ("zab", vec!["ids", "time", "proto"]),
        ("snapshot", with(&["proto", "tree"])),
        ("foreign", with(&["proto", "tree", "txn"])),
        ("pipeline", with(&["proto", "txn", "tree", "path", "acl", "session", "msg"])),
        ("shard", with(&["proto", "tree", "path", "acl", "watch", "msg"])),
        ("server", with(&["proto", "txn", "tree", "path", "acl", "session", "msg", "pipeline", "zab"])),
    ])
}

fn rust_files(at: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The crate modules that a source text names, comments left out.
fn named(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|l| l.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (i, _) in code.match_indices("crate::") {
        let rest = &code[i + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap();
            found.extend(group.split(',').map(|m| m.trim().split("::").next().unwrap().to_owned()));
        } else {
            found.push(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned());
        }
    }
    found.retain(|m| !m.is_empty());
    found
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let allowed = allowed();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let module =
            inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let Some(may) = allowed.get(module) else {
            wrong.push(format!("{}: module {module} has no row in this test", inside.display()));
            continue;
        };
        for used in named(&fs::read_to_string(&file).unwrap()) {
            if used != module && !may.contains(&used.as_str()) {
                wrong.push(format!("{}: uses {used}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point upward:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_this_test_finds_arrows() {
    let text = "use crate::{ids::Zxid, tree};\n// crate::shard\nlet x = crate::proto::Op::Ping;";
    assert_eq!(named(text), ["ids", "tree", "proto"]);
}
