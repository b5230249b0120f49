//! A filter as text: what is parsed again is the same.

use std::fmt;

use super::{Filter, Name, Node, Operator, Test, Wanted, parse::in_member};

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.write(f, false)
    }
}

impl Node {
    fn write(&self, f: &mut fmt::Formatter<'_>, inside: bool) -> fmt::Result {
        let (nodes, by) = match self {
            Self::All(nodes) => (nodes, " AND "),
            Self::Any(nodes) => (nodes, " OR "),
            Self::Not(node) => {
                f.write_str("NOT ")?;
                // NOT stands before one comparison or a parenthesis.
                let twice = matches!(**node, Self::Not(_));
                f.write_str(if twice { "(" } else { "" })?;
                node.write(f, true)?;
                return f.write_str(if twice { ")" } else { "" });
            }
            Self::Test(test) => return write!(f, "{test}"),
        };
        f.write_str(if inside { "(" } else { "" })?;
        for (index, node) in nodes.iter().enumerate() {
            f.write_str(if index > 0 { by } else { "" })?;
            node.write(f, true)?;
        }
        f.write_str(if inside { ")" } else { "" })
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        match self.operator {
            Operator::Has => f.write_str(":")?,
            operator => write!(f, " {} ", operator.sign())?,
        }
        match &self.wanted {
            Wanted::Anything => f.write_str("*"),
            Wanted::Number(_, spelling) => f.write_str(spelling),
            Wanted::Bool(value) => write!(f, "{value}"),
            Wanted::Text {
                text,
                open_start,
                open_end,
            } => {
                let star = |open: &bool| if *open { "*" } else { "" };
                f.write_str("\"")?;
                f.write_str(star(open_start))?;
                write_escaped(f, text)?;
                f.write_str(star(open_end))?;
                f.write_str("\"")
            }
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (root, path) = match self {
            Self::Id => return f.write_str("id"),
            Self::User => return f.write_str("user"),
            Self::Cohort => return f.write_str("cohort"),
            Self::State => return f.write_str("state"),
            Self::Attributes(path) => ("attributes", path),
            Self::Reported(path) => ("reported", path),
        };
        f.write_str(root)?;
        for member in path.iter() {
            f.write_str(".")?;
            if !member.is_empty() && member.chars().all(in_member) {
                f.write_str(member)?;
            } else {
                f.write_str("\"")?;
                write_escaped(f, member)?;
                f.write_str("\"")?;
            }
        }
        Ok(())
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        if matches!(character, '"' | '\\' | '*') {
            f.write_str("\\")?;
        }
        write!(f, "{character}")?;
    }
    Ok(())
}
