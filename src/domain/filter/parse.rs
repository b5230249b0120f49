//! From the text to the filter, character by character.

mod value;

use super::{COHORTS, DEPTH_MAX, FilterBounds, InvalidFilter, MEMBERS_MAX, Name, Node, Operator, STATES, Test, Wanted};

/// The roots of names, as problems tell them.
const NAMES: &str = "id, user, cohort, state, attributes.… and reported.…";

/// Reads all of a text.
pub(super) fn filter(text: &str, bounds: &FilterBounds) -> Result<Node, InvalidFilter> {
    let mut reader = Reader {
        text,
        at: 0,
        terms: 0,
        bounds,
    };
    if text.len() > bounds.max_bytes {
        let why = format!("it has {} bytes; at most {} are allowed", text.len(), bounds.max_bytes);
        return Err(reader.wrong(text.floor_char_boundary(bounds.max_bytes), why));
    }
    let node = reader.filter(0)?;
    match reader.next() {
        None => Ok(node),
        Some(_) => Err(reader.wrong(reader.at, "this parenthesis was not opened; take it away")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    terms: usize,
    bounds: &'a FilterBounds,
}

impl<'a> Reader<'a> {
    fn wrong(&self, offset: usize, why: impl Into<String>) -> InvalidFilter {
        InvalidFilter { offset, why: why.into() }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next character behind white space, which is passed over.
    fn next(&mut self) -> Option<char> {
        self.at = self.text.len() - self.rest().trim_start().len();
        self.rest().chars().next()
    }

    /// Takes what comes, if it is that.
    fn take(&mut self, sign: &str) -> bool {
        let is_next = self.rest().starts_with(sign);
        if is_next {
            self.at += sign.len();
        }
        is_next
    }

    /// Takes characters as long as they are of that kind.
    fn run(&mut self, is: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let run = rest.get(..rest.find(|c| !is(c)).unwrap_or(rest.len())).unwrap_or_default();
        self.at += run.len();
        run
    }

    /// Takes that word, if a space, a parenthesis or nothing is behind it.
    fn word(&mut self, word: &str) -> bool {
        let behind = self.rest().strip_prefix(word);
        let is_word = behind.is_some_and(|behind| behind.chars().next().is_none_or(|c| c.is_whitespace() || c == '('));
        if is_word {
            self.at += word.len();
        }
        is_word
    }

    fn filter(&mut self, depth: usize) -> Result<Node, InvalidFilter> {
        let mut nodes = vec![self.term(depth)?];
        let mut joined_by = None;
        while self.next().is_some_and(|next| next != ')') {
            let at = self.at;
            let by = if self.word("AND") {
                "AND"
            } else if self.word("OR") {
                "OR"
            } else {
                return Err(self.wrong(at, "AND or OR is expected here, in capitals, with a space around it"));
            };
            if *joined_by.get_or_insert(by) != by {
                let why = "AND and OR together need parentheses, such as a AND (b OR c)";
                return Err(self.wrong(at, why));
            }
            nodes.push(self.term(depth)?);
        }
        Ok(match (joined_by, nodes.len()) {
            (Some("OR"), _) => Node::Any(nodes),
            (_, 1) => nodes.swap_remove(0),
            _ => Node::All(nodes),
        })
    }

    fn term(&mut self, depth: usize) -> Result<Node, InvalidFilter> {
        self.next();
        let negates = self.word("NOT") || self.take("-");
        let next = self.next();
        let opened_at = self.at;
        let node = if self.take("(") {
            if depth >= DEPTH_MAX {
                let why = format!("parentheses are nested deeper than {DEPTH_MAX}; write it flatter");
                return Err(self.wrong(opened_at, why));
            }
            let node = self.filter(depth + 1)?;
            if !self.take(")") {
                return Err(self.wrong(opened_at, "this parenthesis is not closed"));
            }
            node
        } else if next.is_none() || next == Some(')') {
            return Err(self.wrong(self.at, "a comparison is missing here, such as attributes.model = \"stb-7\""));
        } else {
            Node::Test(self.comparison()?)
        };
        Ok(if negates { Node::Not(Box::new(node)) } else { node })
    }

    fn comparison(&mut self) -> Result<Test, InvalidFilter> {
        let at = self.at;
        self.terms += 1;
        if self.terms > self.bounds.max_terms {
            let why = format!("it has more than {} comparisons; ask in parts", self.bounds.max_terms);
            return Err(self.wrong(at, why));
        }
        let name = self.name()?;
        self.next();
        let operator_at = self.at;
        let sign = Operator::ALL.into_iter().find(|(sign, _)| self.take(sign));
        let Some((_, operator)) = sign else {
            let why = "an operator is expected here: =, !=, <, <=, >, >= or :; name:* asks whether it is there";
            return Err(self.wrong(operator_at, why));
        };
        self.next();
        let value_at = self.at;
        let wanted = self.wanted(operator)?;
        self.fit(&name, operator, wanted, operator_at, value_at)
    }

    fn name(&mut self) -> Result<Name, InvalidFilter> {
        let at = self.at;
        let root = self.run(in_member);
        let name = match root {
            "id" => Name::Id,
            "user" => Name::User,
            "cohort" => Name::Cohort,
            "state" if self.bounds.state => Name::State,
            "state" => return Err(self.wrong(at, "state is known to GET /v1/presence alone; take it out, or ask there")),
            "attributes" => Name::Attributes(self.members()?),
            "reported" => Name::Reported(self.members()?),
            _ => return Err(self.wrong(at, format!("a name is expected here: {NAMES}"))),
        };
        if self.rest().starts_with('.') {
            return Err(self.wrong(self.at, format!("{root} has no members; compare it as it is")));
        }
        Ok(name)
    }

    fn members(&mut self) -> Result<std::sync::Arc<[Box<str>]>, InvalidFilter> {
        let mut members: Vec<Box<str>> = Vec::new();
        while self.take(".") {
            let at = self.at;
            let member = match self.rest().chars().next() {
                Some(quote @ ('"' | '\'')) => {
                    let quoted = self.quoted(quote)?;
                    if let Some((_, written_at)) = quoted.stars.first() {
                        return Err(self.wrong(*written_at, "a name has no open end; write \\* for the star itself"));
                    }
                    quoted.text.into()
                }
                _ => self.run(in_member).into(),
            };
            if members.len() == MEMBERS_MAX {
                return Err(self.wrong(at, format!("the name has more than {MEMBERS_MAX} members")));
            }
            if self.at == at {
                let why =
                    "a member is expected behind the dot; put quotes around it if it has other characters than letters, digits, _ and -";
                return Err(self.wrong(at, why));
            }
            members.push(member);
        }
        if members.is_empty() {
            return Err(self.wrong(self.at, "a dot and a member are expected here, such as attributes.model"));
        }
        Ok(members.into())
    }

    /// Whether the value is one that the name can have.
    fn fit(&self, name: &Name, operator: Operator, wanted: Wanted, operator_at: usize, value_at: usize) -> Result<Test, InvalidFilter> {
        let words: &[&str] = match name {
            Name::Cohort => &COHORTS,
            Name::State => &STATES,
            _ => &[],
        };
        if !words.is_empty() {
            if operator.orders() {
                return Err(self.wrong(operator_at, "these words have no order; use = or !="));
            }
            if wanted != Wanted::Anything && !wanted.exact().is_some_and(|exact| words.contains(&exact)) {
                return Err(self.wrong(value_at, format!("it is none of {}", words.join(", "))));
            }
        }
        let wanted = match (name, wanted) {
            // Ids are folded when they are parsed, too.
            (
                Name::Id,
                Wanted::Text {
                    text,
                    open_start,
                    open_end,
                },
            ) => Wanted::Text {
                text: text.to_ascii_lowercase().into(),
                open_start,
                open_end,
            },
            // What is text in any case is compared as text.
            (Name::Id | Name::User, Wanted::Number(_, spelling)) => Wanted::text(spelling),
            (Name::Id | Name::User, wanted @ Wanted::Bool(_)) => Wanted::text(wanted.exact().unwrap_or_default()),
            (_, wanted) => wanted,
        };
        Ok(Test {
            name: name.clone(),
            operator,
            wanted,
        })
    }
}

/// What a member's name is made of when it has no quotes.
pub(super) fn in_member(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-')
}
