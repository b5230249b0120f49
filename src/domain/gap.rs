//! Where a consumer is in the receipts of its tenant, and what it is told when some of them are missing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Generation;

/// The place of a receipt as consumers have it, `1207.3f`: a position, and the life of the store in which it was given. Another life may
/// give the same position to another receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReceiptCursor {
    /// Its position in the log of the tenant.
    pub position: u64,
    /// The life of the store.
    pub generation: Generation,
}

impl fmt::Display for ReceiptCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}", self.position, self.generation.0)
    }
}

impl FromStr for ReceiptCursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (position, generation) = text.split_once('.').ok_or(())?;
        let cursor = Self {
            position: position.parse().map_err(drop)?,
            generation: Generation(u32::from_str_radix(generation, 16).map_err(drop)?),
        };
        // One that this service did not write is none of its cursors.
        if cursor.to_string() == text { Ok(cursor) } else { Err(()) }
    }
}

impl Serialize for ReceiptCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ReceiptCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| de::Error::custom("it is no place of a receipt"))
    }
}

/// What became of receipts that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// They were kept as long as is set.
    Dropped,
    /// The store lost them.
    Lost,
    /// They are those of another store, or of another life of this one.
    OtherStore,
}

impl Missing {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Dropped, Self::Lost, Self::OtherStore];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Lost => "lost",
            Self::OtherStore => "other-store",
        }
    }
}

/// Receipts that are missing for a consumer. As JSON it is what consumers read of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gap {
    /// Behind which they are missing.
    pub after: ReceiptCursor,
    /// The first that is missing, where it is known.
    pub from: Option<ReceiptCursor>,
    /// The last, where it is known.
    pub to: Option<ReceiptCursor>,
    /// What became of them.
    pub reason: Missing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_in_no_other_way() {
        let cursor: ReceiptCursor = "1207.3f".parse().unwrap();
        assert_eq!((cursor.position, cursor.generation), (1207, Generation(0x3f)));
        assert_eq!(cursor.to_string(), "1207.3f");
        for text in [
            "",
            "1207",
            "1207.",
            ".3f",
            "+1.3f",
            "01.3f",
            "1.3F",
            "1.03f",
            "-1.3f",
            "1.3f.1",
            "1.1ffffffff",
            "1 .3f",
        ] {
            assert_eq!(text.parse::<ReceiptCursor>(), Err(()), "{text}");
        }
    }

    #[test]
    fn a_gap_is_read_as_it_was_written() {
        let at = |position| ReceiptCursor {
            position,
            generation: Generation(0x3f),
        };
        let gap = Gap {
            after: at(4),
            from: Some(at(5)),
            to: None,
            reason: Missing::OtherStore,
        };
        let text = serde_json::to_string(&gap).unwrap();
        assert_eq!(text, r#"{"after":"4.3f","from":"5.3f","to":null,"reason":"other-store"}"#);
        assert_eq!(serde_json::from_str::<Gap>(&text).unwrap(), gap);
        assert!(serde_json::from_str::<Gap>(&text.replace("4.3f", "04.3f")).is_err());
        for missing in Missing::ALL {
            assert_eq!(serde_json::to_value(missing).unwrap(), missing.as_str());
        }
    }
}
