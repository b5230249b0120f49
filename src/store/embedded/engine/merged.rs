//! Two sorted runs of rows read as one.

use fjall::Slice;

use crate::store::StoreError;

type Row = (Slice, Slice);

/// The engine's rows and the young ones over them: where both have a key, the young row counts. In order, from both ends.
pub(super) struct Merged<I> {
    rows: I,
    young: std::vec::IntoIter<Row>,
    /// Rows of the engine that were taken and not given yet.
    front: Option<Row>,
    back: Option<Row>,
}

impl<I> Merged<I> {
    /// `young` is sorted and has no key twice.
    pub(super) fn new(rows: I, young: Vec<Row>) -> Self {
        Self {
            rows,
            young: young.into_iter(),
            front: None,
            back: None,
        }
    }
}

impl<I: Iterator<Item = Result<Row, StoreError>>> Iterator for Merged<I> {
    type Item = Result<Row, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = match self
            .front
            .take()
            .map(Ok)
            .or_else(|| self.rows.next())
            .or_else(|| self.back.take().map(Ok))
        {
            Some(Ok(row)) => row,
            Some(Err(error)) => return Some(Err(error)),
            None => return self.young.next().map(Ok),
        };
        let Some(young) = self.young.as_slice().first() else {
            return Some(Ok(row));
        };
        if young.0 > row.0 {
            return Some(Ok(row));
        }
        if young.0 < row.0 {
            self.front = Some(row);
        }
        self.young.next().map(Ok)
    }
}

impl<I: DoubleEndedIterator<Item = Result<Row, StoreError>>> DoubleEndedIterator for Merged<I> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let row = match self
            .back
            .take()
            .map(Ok)
            .or_else(|| self.rows.next_back())
            .or_else(|| self.front.take().map(Ok))
        {
            Some(Ok(row)) => row,
            Some(Err(error)) => return Some(Err(error)),
            None => return self.young.next_back().map(Ok),
        };
        let Some(young) = self.young.as_slice().last() else {
            return Some(Ok(row));
        };
        if young.0 < row.0 {
            return Some(Ok(row));
        }
        if young.0 > row.0 {
            self.back = Some(row);
        }
        self.young.next_back().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: u8, value: u8) -> Row {
        (Slice::from([key]), Slice::from([value]))
    }

    #[test]
    fn every_key_comes_once_and_in_order_from_whichever_end_it_is_taken() {
        // Which of six keys are rows, which are young, and from which end each is taken.
        for bits in 0..1_u32 << 18 {
            let (rows, young, ends) = (bits & 63, bits >> 6 & 63, bits >> 12);
            let of = |set: u32, value| (0..6).filter(move |key| set >> key & 1 == 1).map(move |key| row(key, value));
            let mut merged = Merged::new(of(rows, 1).map(Ok), of(young, 2).collect());
            let (mut front, mut back) = (Vec::new(), Vec::new());
            for turn in 0.. {
                let (next, to) = if ends >> (turn % 6) & 1 == 0 {
                    (merged.next(), &mut front)
                } else {
                    (merged.next_back(), &mut back)
                };
                let Some(next) = next else { break };
                to.push(next.unwrap());
            }
            front.extend(back.into_iter().rev());
            let expected = (0..6).filter_map(|key| match (rows >> key & 1, young >> key & 1) {
                (_, 1) => Some(row(key, 2)),
                (1, _) => Some(row(key, 1)),
                _ => None,
            });
            assert_eq!(front, expected.collect::<Vec<_>>(), "{bits:b}");
        }
    }
}
