//! The pages of the repository are true where that can be checked: what they link to is there, and the tests that
//! `docs/guarantees.md` and `docs/hostile.md` name are tests.

use std::path::{Path, PathBuf};

const GUARANTEES: &str = "docs/guarantees.md";
const HOSTILE: &str = "docs/hostile.md";

/// A link as it is written: `[text](target)`.
#[derive(Debug, PartialEq, Eq)]
struct Link<'a> {
    text: &'a str,
    target: &'a str,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests stand in the workspace").to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All pages: those at the top, and those in `docs`.
fn pages() -> Vec<PathBuf> {
    let folders = [repository(), repository().join("docs")];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder can be listed"));
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The text of a page without its examples of code.
fn prose(page: &str) -> String {
    page.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

fn links(text: &str) -> Vec<Link<'_>> {
    let middles = text.match_indices("](").map(|(at, _)| at);
    let link = |at: usize| {
        let begin = text[..at].rfind('[')? + 1;
        let end = at + 2 + text[at + 2..].find(')')?;
        Some(Link { text: &text[begin..at], target: &text[at + 2..end] })
    };
    middles.filter_map(link).collect()
}

/// Headings as GitHub makes anchors of them.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|character| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_'));
        kept.map(|character| if character == ' ' { '-' } else { character }).collect()
    };
    headings.map(anchor).collect()
}

/// Whether a file has a test of this name: a function under `#[test]`, with other attributes and comments between.
fn has_test(source: &str, name: &str) -> bool {
    let Some(at) = source.find(&format!("fn {name}(")) else { return false };
    let line = source[..at].rfind('\n').map_or(0, |end| end + 1);
    let above = source[..line].lines().rev().map(str::trim);
    above
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
        .any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = prose(&read(&page));
        let folder = page.parent().expect("a page is in a folder");
        for link in links(&text).into_iter().filter(|link| !link.target.contains("://")) {
            let (file, anchor) = link.target.split_once('#').unwrap_or((link.target, ""));
            let path = if file.is_empty() { page.clone() } else { folder.join(file) };
            assert!(path.exists(), "{}: there is no {}", page.display(), path.display());
            let found = anchor.is_empty() || anchors(&prose(&read(&path))).iter().any(|known| known == anchor);
            assert!(found, "{}: {} has no heading for {link:?}", page.display(), path.display());
        }
    }
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let page = repository().join(GUARANTEES);
    let text = read(&page);
    let sections: Vec<&str> = text.split("\n## ").skip(1).collect();
    assert!(sections.len() > 10, "{} was not understood", page.display());
    for section in sections {
        let title = section.lines().next().unwrap_or_default();
        let (how, tests) = section.split_once("- **Tests.**").unwrap_or_else(|| panic!("`{title}` names no tests"));
        assert!(how.contains("- **How.**"), "`{title}` does not say how");
        let mut named = 0;
        for (link, is_test) in
            links(how).into_iter().map(|link| (link, false)).chain(links(tests).into_iter().map(|link| (link, true)))
        {
            let Some(name) = link.text.strip_prefix('`').and_then(|text| text.strip_suffix('`')) else { continue };
            let source = read(&page.with_file_name(link.target));
            if is_test && !name.contains("::") {
                assert!(has_test(&source, name), "`{title}`: there is no test `{name}` in {}", link.target);
                named += 1;
            } else {
                // `Type::method` is found by its last name.
                let last = name.rsplit("::").next().unwrap_or(name);
                assert!(source.contains(last), "`{title}`: there is no `{name}` in {}", link.target);
            }
        }
        assert!(named > 0, "`{title}` names no test");
    }
}

/// The cells of each line of a page's tables, without their heads.
fn table_lines(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &str| line.starts_with("|-");
    let is_head = |at: usize| lines.get(at + 1).is_some_and(|next| is_rule(next));
    let of_table = |at: &usize| lines[*at].starts_with('|') && !is_rule(lines[*at]) && !is_head(*at);
    (0..lines.len())
        .filter(of_table)
        .map(|at| lines[at].trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn every_hostile_act_has_a_test_of_its_own() {
    let page = repository().join(HOSTILE);
    let text = read(&page);
    let lines = table_lines(&text);
    assert!(lines.len() > 40, "{} was not understood", page.display());
    let mut seen = Vec::new();
    for cells in lines {
        let [what, .., test] = cells.as_slice() else { panic!("a line of one cell: {cells:?}") };
        let [link] = &links(test)[..] else { panic!("`{what}` must name one test, and names: {test}") };
        let name = link.text.trim_matches('`');
        assert!(has_test(&read(&page.with_file_name(link.target)), name), "`{what}`: there is no test `{name}`");
        assert!(!seen.contains(&name), "`{what}` has no test of its own: `{name}` is another's");
        seen.push(name);
    }
}

#[test]
fn pages_are_read_as_they_are_meant() {
    let text = "[`a`](../b.rs#x), and [c d](e)\n```\n[no](link)\n```\n";
    let expected = [Link { text: "`a`", target: "../b.rs#x" }, Link { text: "c d", target: "e" }];
    assert_eq!(links(&prose(text)), expected);
    assert_eq!(anchors("# The `way`, of a message\ntext\n## Two"), ["the-way-of-a-message", "two"]);
    assert_eq!(table_lines("a\n| x | y |\n|---|---|\n| 1 | 2 |\n| 3 | |\nb"), [["1", "2"], ["3", ""]]);
    let source =
        "#[test]\n// why\n#[ignore]\nfn one() {}\n\nfn two() {}\n\n    #[tokio::test]\n    async fn three() {}\n";
    assert_eq!(["one", "two", "three", "on"].map(|name| has_test(source, name)), [true, false, true, false]);
}
