//! The demo's story: steps with facts, told to a person or to a program.

use serde_json::{Map, Value, json};

use crate::terminal::{self, Style};

/// How the story is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Telling {
    /// Line by line, to a person.
    Text,
    /// One JSON object at the end.
    Json,
}

/// What was told so far, and whether all of it was true.
pub(super) struct Story {
    telling: Telling,
    style: Style,
    steps: Vec<Value>,
    all_true: bool,
}

/// One fact of a step: a label for people, a key for programs.
pub(super) struct Fact {
    label: &'static str,
    text: String,
    key: &'static str,
    value: Value,
}

/// A fact that reads the same for people and programs.
pub(super) fn fact(label: &'static str, key: &'static str, text: impl Into<String>) -> Fact {
    let text = text.into();
    Fact { label, key, value: text.clone().into(), text }
}

/// A fact that programs get as another value than people.
pub(super) fn figure(
    label: &'static str,
    key: &'static str,
    text: impl Into<String>,
    value: impl Into<Value>,
) -> Fact {
    Fact { label, key, text: text.into(), value: value.into() }
}

impl Story {
    pub(super) fn new(telling: Telling) -> Self {
        Self { telling, style: terminal::stdout_style(), steps: Vec::new(), all_true: true }
    }

    /// The opening lines.
    pub(super) fn open(&self, title: &str, lines: &[String]) {
        if self.telling == Telling::Json {
            return;
        }
        terminal::say(&format!("\n{}", self.style.bold(title)));
        for line in lines {
            terminal::say(&format!("  {line}"));
        }
    }

    /// One step. `held` says whether what it claims is true.
    pub(super) fn step(&mut self, name: &'static str, title: &str, facts: &[Fact], held: bool) {
        self.all_true &= held;
        if self.telling == Telling::Text {
            let number = self.steps.len() + 1;
            let mark = if held { self.style.good("✓") } else { self.style.bad("✗") };
            terminal::say(&format!("\n{mark} {}", self.style.bold(&format!("{number}. {title}"))));
            for fact in facts {
                terminal::say(&format!(
                    "     {} {}",
                    self.style.dim(&format!("{:<12}", fact.label)),
                    fact.text
                ));
            }
        }
        let mut object = Map::new();
        object.insert("step".into(), name.into());
        object.insert("title".into(), title.into());
        object.insert("ok".into(), held.into());
        for fact in facts {
            object.insert(fact.key.into(), fact.value.clone());
        }
        self.steps.push(Value::Object(object));
    }

    /// The end. Says whether every step was true.
    pub(super) fn close(self, seconds: &str) -> bool {
        match self.telling {
            Telling::Json => {
                let story = json!({ "ok": self.all_true, "steps": self.steps });
                terminal::say(&story.to_string());
            }
            Telling::Text if self.all_true => terminal::say(&format!(
                "\n{}  {} steps, all true, in {seconds} s\n",
                self.style.good("done"),
                self.steps.len(),
            )),
            Telling::Text => {
                terminal::say(&format!("\n{}  a step was not true\n", self.style.bad("failed")));
            }
        }
        self.all_true
    }
}
