//! The pages name no command line that the program would refuse.

use std::path::{Path, PathBuf};

/// What pages write where a reader puts a value, and a value that stands for it; other words in capitals are taken as
/// they are.
const PLACEHOLDERS: [(&str, &str); 6] =
    [("N", "1"), ("DURATION", "90s"), ("PORT", "8080"), ("SHELL", "bash"), ("VERB", "up"), ("TIME", "90s")];

/// The line of a page, and what is said there.
type Mention = (usize, String);

#[test]
fn every_command_line_of_the_pages_is_one_that_the_program_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    pages_below(&root.join("docs"), &mut pages);
    let (mut found, mut refused) = (0, Vec::new());
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        found += mentions(&text).len();
        let page = page.strip_prefix(&root).unwrap().display().to_string();
        refused.extend(refusals(&text).into_iter().map(|refusal| format!("{page}:{refusal}")));
    }
    assert!(found > 50, "only {found} command lines were found: are the pages written otherwise now?");
    assert!(refused.is_empty(), "{} of {found} command lines:\n{}", refused.len(), refused.join("\n"));
}

#[test]
fn a_page_with_unknown_verbs_flags_and_values_is_refused_with_all_of_them() {
    let page = "\
Say `provisioner up --env dev`, never `provisioner rise`, `up --nonsense` or `provisioner` alone; a span may be `provisioner
status --wrapped`. `` target/debug/provisioner down --bogus-1 `` too, and `cargo run; provisioner plan --bogus-2`.

```
$ provisioner exec postgres-1 -- psql -c 'select 1; select 2' > rows
$ PROVISIONER_ENV=dev provisioner top --bogus-3 | cat
eval \"$(provisioner env --bogus-4)\"
provisioner logs MEMBER --tail N && provisioner scale --bogus-5   # provisioner fly
$ provisioner drift --env dev \\
    --bogus-6
provisioner: what it prints is no command line
provisioner up --timeout soon
```
";
    let refused = refusals(page);
    let expected = [
        (1, "provisioner rise"),
        (1, "provisioner status --wrapped"),
        (2, "target/debug/provisioner down --bogus-1"),
        (2, "provisioner plan --bogus-2"),
        (6, "PROVISIONER_ENV=dev provisioner top --bogus-3"),
        (7, "provisioner env --bogus-4"),
        (8, "provisioner scale --bogus-5"),
        (9, "provisioner drift --env dev --bogus-6"),
        (12, "provisioner up --timeout soon"),
    ];
    let starts: Vec<String> = expected.iter().map(|(line, said)| format!("{line}: `{said}`: error: ")).collect();
    assert_eq!(refused.len(), starts.len(), "{refused:#?}");
    for (refusal, start) in refused.iter().zip(starts) {
        assert!(refusal.starts_with(&start), "found {refusal}, expected {start}");
    }
}

fn pages_below(directory: &Path, pages: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        match entry.is_dir() {
            true => pages_below(&entry, pages),
            false if entry.extension().is_some_and(|extension| extension == "md") => pages.push(entry),
            false => {}
        }
    }
}

/// What of a page the real command line does not take, and why.
fn refusals(page: &str) -> Vec<String> {
    let refusal = |(line, said): Mention| {
        let why = refused(&said)?;
        Some(format!("{line}: `{said}`: {why}"))
    };
    mentions(page).into_iter().filter_map(refusal).collect()
}

fn refused(said: &str) -> Option<String> {
    let Some(words) = shlex::split(said) else { return Some("error: not words of a shell".to_owned()) };
    let words = words.into_iter().skip_while(|word| is_assignment(word)).filter(|word| word != "..." && word != "…");
    let value = |word: String| {
        PLACEHOLDERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, value)| (*value).to_owned())
    };
    match provisioner::cli::command().try_get_matches_from(words.map(value)) {
        Err(error) if error.exit_code() != 0 => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
        _ => None,
    }
}

/// Every command line of this program in the page, in fenced blocks and in spans of code.
fn mentions(page: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    let (mut fenced, mut paragraph, mut command) = (false, Vec::new(), None::<Mention>);
    for (line, text) in (1..).zip(page.lines().chain([""])) {
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            let (begun, before) = command.take().unwrap_or((line, String::new()));
            let text = text.trim();
            match text.strip_suffix('\\') {
                Some(text) => command = Some((begun, format!("{before}{text}"))),
                None => found.extend(commands(&format!("{before}{text}")).into_iter().map(|said| (begun, said))),
            }
            continue;
        } else if !text.trim().is_empty() {
            paragraph.push((line, text));
            continue;
        }
        for (line, span) in spans(&std::mem::take(&mut paragraph)) {
            found.extend(commands(&span).into_iter().map(|said| (line, said)));
        }
    }
    found
}

/// The spans of code of a paragraph: what stands between two runs of as many backticks, on one line or on several.
fn spans(paragraph: &[(usize, &str)]) -> Vec<Mention> {
    let Some((first, _)) = paragraph.first() else { return Vec::new() };
    let text: Vec<&str> = paragraph.iter().map(|(_, text)| *text).collect();
    let text = text.join("\n");
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(opening) = text[at..].find('`') {
        let opening = at + opening;
        let ticks: String = text[opening..].chars().take_while(|character| *character == '`').collect();
        let inside = opening + ticks.len();
        let Some(length) = text[inside..].find(&ticks) else { break };
        let line = first + text[..opening].matches('\n').count();
        found.push((line, text[inside..inside + length].split_whitespace().collect::<Vec<_>>().join(" ")));
        at = inside + length + ticks.len();
    }
    found
}

/// The command lines of this program in a line of shell.
fn commands(line: &str) -> Vec<String> {
    let line = line.strip_prefix("$ ").unwrap_or(line);
    let inner = line.split("$(").skip(1).filter_map(|inner| inner.split(')').next());
    let all = std::iter::once(line).chain(inner).flat_map(between_operators);
    all.filter(|command| {
        let mut words = command.split_whitespace().skip_while(|word| is_assignment(word));
        let is_program = words.next().is_some_and(|word| word.rsplit('/').next() == Some("provisioner"));
        is_program && words.next().is_some()
    })
    .collect()
}

/// The commands that a line of shell puts together; what is quoted or said after `#` is none.
fn between_operators(line: &str) -> Vec<String> {
    let (mut all, mut quote, mut before) = (vec![String::new()], None, ' ');
    for character in line.chars() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            (None, '#') if before == ' ' => break,
            (None, '|' | '>' | '<' | ';' | '&') => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        before = character;
        all.last_mut().unwrap().push(character);
    }
    all.into_iter().map(|command| command.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
    })
}
