//! Values, and text in quotes.

use serde_json::Number;

use super::{InvalidFilter, Operator, Reader, Wanted, in_member};

/// Text as it was written: a `*` that stands for anything is apart from one behind a backslash.
#[derive(Default)]
pub(super) struct Quoted {
    pub(super) text: String,
    /// Where in `text` a star stands for anything, and where that star was written.
    pub(super) stars: Vec<(usize, usize)>,
}

impl Reader<'_> {
    pub(super) fn wanted(&mut self, operator: Operator) -> Result<Wanted, InvalidFilter> {
        let at = self.at;
        let wanted = match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let quoted = self.quoted(quote)?;
                self.pattern(quoted, operator)?
            }
            _ => self.plain(operator)?,
        };
        let ends = self.rest().chars().next().is_none_or(|next| next.is_whitespace() || next == ')');
        if self.at == at || !ends {
            let why =
                "a value is expected here; put quotes around it if it has other characters than letters, digits, _, -, ., +, /, @ and *";
            return Err(self.wrong(self.at, why));
        }
        Ok(wanted)
    }

    /// A value without quotes.
    fn plain(&mut self, operator: Operator) -> Result<Wanted, InvalidFilter> {
        let at = self.at;
        let run = self.run(in_value);
        match run {
            "true" => return Ok(Wanted::Bool(true)),
            "false" => return Ok(Wanted::Bool(false)),
            "*" if operator == Operator::Has => return Ok(Wanted::Anything),
            "null" => return Err(self.wrong(at, "null is as not there: ask with NOT name:*, or put quotes around the word")),
            "AND" | "OR" | "NOT" => return Err(self.wrong(at, format!("a value is expected here; put quotes around {run} if it is one"))),
            _ => {}
        }
        if run.starts_with(|c: char| c == '-' || c.is_ascii_digit())
            && let Ok(number) = serde_json::from_str::<Number>(run)
        {
            return Ok(Wanted::Number(number, run.into()));
        }
        let mut plain = Quoted::default();
        for (offset, character) in run.char_indices() {
            if character == '*' {
                plain.stars.push((plain.text.len(), at + offset));
            } else {
                plain.text.push(character);
            }
        }
        self.pattern(plain, operator)
    }

    /// Text in quotes, with what a backslash is before.
    pub(super) fn quoted(&mut self, quote: char) -> Result<Quoted, InvalidFilter> {
        let opened_at = self.at;
        self.at += quote.len_utf8();
        let mut found = Quoted::default();
        loop {
            let at = self.at;
            let mut ahead = self.rest().chars();
            let Some(character) = ahead.next() else {
                return Err(self.wrong(opened_at, "the text that begins here has no closing quote"));
            };
            self.at += character.len_utf8();
            match character {
                '\\' => match ahead.next() {
                    Some(escaped @ ('\\' | '"' | '\'' | '*')) => {
                        self.at += escaped.len_utf8();
                        found.text.push(escaped);
                    }
                    _ => return Err(self.wrong(at, "a backslash is written before a quote, a star or a backslash only")),
                },
                '*' => found.stars.push((found.text.len(), at)),
                character if character == quote => return Ok(found),
                character => found.text.push(character),
            }
        }
    }

    /// A text whose stars stand for anything.
    fn pattern(&self, found: Quoted, operator: Operator) -> Result<Wanted, InvalidFilter> {
        let length = found.text.len();
        let (mut open_start, mut open_end) = (false, false);
        for (index, (place, written_at)) in found.stars.iter().enumerate() {
            if operator.orders() {
                return Err(self.wrong(
                    *written_at,
                    "a star has no place in an order; write \\* in quotes for the star itself",
                ));
            }
            // Of an empty text the first star is its start, and the second its end.
            if *place == 0 && index == 0 {
                open_start = true;
            } else if *place == length {
                open_end = true;
            } else {
                let why = "a star stands at the beginning or at the end; write \\* in quotes for the star itself";
                return Err(self.wrong(*written_at, why));
            }
        }
        Ok(Wanted::Text {
            text: found.text.into(),
            open_start,
            open_end,
        })
    }
}

/// What a value is made of when it has no quotes.
fn in_value(character: char) -> bool {
    in_member(character) || matches!(character, '.' | '+' | '/' | '@' | '*')
}
