//! The figures of one minute of the ledger, as a record.

use super::{
    StoreError,
    codec::{Decoder, Encoder},
};

const VERSION: u8 = 1;

pub(in crate::store) fn encode_figures<'a>(figures: impl ExactSizeIterator<Item = (&'a String, &'a f64)>) -> Vec<u8> {
    let mut into = Encoder::default();
    into.byte(VERSION).number(figures.len() as u64);
    for (name, figure) in figures {
        into.text(name).raw(&figure.to_le_bytes());
    }
    into.finish()
}

/// Adds the figures of a row to `sum`.
pub(in crate::store) fn add_figures(bytes: &[u8], sum: &mut std::collections::BTreeMap<String, f64>) -> Result<(), StoreError> {
    let mut from = Decoder::new(bytes, "a minute of the ledger");
    from.version(VERSION)?;
    for _ in 0..from.number()? {
        let name = from.text()?;
        let figure = f64::from_le_bytes(from.array()?);
        match sum.get_mut(name) {
            Some(place) => *place += figure,
            None => {
                sum.insert(name.to_owned(), figure);
            }
        }
    }
    Ok(())
}
