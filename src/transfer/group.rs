//! Lines that are stored in one step: a device and its deliveries, some receipts, some minutes.

use crate::{
    domain::EventIdKey,
    http::text::check_json,
    store::transfer::{AuditRow, Counts, DeliveryRow, DeviceRow, Piece, ReceiptRow, Row},
};

/// Receipts or minutes of one step.
const TOGETHER: usize = 500;
/// Bytes of the lines of one device, at most: a full queue with a day of states.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// A piece of the import, and which lines it is.
pub(super) struct Group {
    pub(super) first_line: usize,
    pub(super) bytes: usize,
    pub(super) rows: Counts,
    pub(super) piece: Piece,
}

/// Puts lines together.
pub(super) struct Groups {
    ids: EventIdKey,
    open: Option<Group>,
    /// The last device was refused, and so are its deliveries.
    without_device: bool,
}

impl Groups {
    /// Lines of a store whose ids this key made.
    pub(super) fn new(id_key: &[u8; 32]) -> Self {
        Self {
            ids: EventIdKey::new(id_key),
            open: None,
            without_device: false,
        }
    }

    /// Takes a line in. Answers the group that is complete, if one is.
    ///
    /// # Errors
    /// The field, and why the line is refused. Its neighbours are not.
    pub(super) fn add(&mut self, line: usize, bytes: usize, row: Row) -> Result<Option<Group>, (String, String)> {
        let mut rows = Counts::default();
        rows.count(&row);
        let piece = match row {
            Row::Export(_) | Row::End(_) => return Err((String::new(), "it belongs at the beginning or at the end".into())),
            Row::Delivery(delivery) => return self.deliver(bytes, rows, *delivery).map(|()| None),
            Row::Tenant(tenant) => Piece::Tenant(tenant),
            Row::Key(key) => Piece::Key(key),
            Row::Webhook(webhook) => Piece::Webhook(webhook),
            Row::Group(group) => {
                group.check()?;
                Piece::Group(group)
            }
            Row::Audit(entry) => {
                entry.check()?;
                if let Some(Group {
                    piece: Piece::Audit(open), ..
                }) = &mut self.open
                    && open.len() < TOGETHER
                    && open.last().is_some_and(|last: &AuditRow| last.tenant == entry.tenant)
                {
                    open.push(entry);
                    self.grow(bytes, rows);
                    return Ok(None);
                }
                Piece::Audit(vec![entry])
            }
            Row::Receipt(receipt) => {
                receipt.check()?;
                if let Some(Group {
                    piece: Piece::Receipts(open),
                    ..
                }) = &mut self.open
                    && open.len() < TOGETHER
                    && open.last().is_some_and(|last: &ReceiptRow| last.tenant == receipt.tenant)
                {
                    open.push(receipt);
                    self.grow(bytes, rows);
                    return Ok(None);
                }
                Piece::Receipts(vec![receipt])
            }
            Row::Minute(minute) => {
                minute.check()?;
                if let Some(Group {
                    piece: Piece::Minutes(open),
                    ..
                }) = &mut self.open
                    && open.len() < TOGETHER
                {
                    open.push(minute);
                    self.grow(bytes, rows);
                    return Ok(None);
                }
                Piece::Minutes(vec![minute])
            }
            Row::Device(device) => {
                self.without_device = true;
                device.check()?;
                self.without_device = false;
                Piece::Device(device, Vec::new())
            }
        };
        let next = Group {
            first_line: line,
            bytes,
            rows,
            piece,
        };
        Ok(self.open.replace(next))
    }

    /// A line that cannot be read: what follows a device that cannot be read has none.
    pub(super) fn unreadable(&mut self, was_device: bool) {
        self.without_device |= was_device;
    }

    /// The group that is not complete yet.
    pub(super) fn take(&mut self) -> Option<Group> {
        self.open.take()
    }

    fn grow(&mut self, bytes: usize, rows: Counts) {
        if let Some(open) = &mut self.open {
            open.bytes += bytes;
            open.rows.add(rows);
        }
    }

    fn deliver(&mut self, bytes: usize, rows: Counts, delivery: DeliveryRow) -> Result<(), (String, String)> {
        let whole = |why: String| (String::new(), why);
        let Some(Group {
            piece: Piece::Device(device, deliveries),
            bytes: so_far,
            ..
        }) = self.open.as_mut().filter(|_| !self.without_device)
        else {
            return Err(whole("its device was refused, or does not stand before it".into()));
        };
        check(&self.ids, device, &delivery)?;
        if *so_far + bytes > BYTES_MAX {
            return Err(whole(format!("the lines of one device have more than {BYTES_MAX} bytes")));
        }
        deliveries.push(delivery);
        self.grow(bytes, rows);
        Ok(())
    }
}

fn check(ids: &EventIdKey, device: &DeviceRow, delivery: &DeliveryRow) -> Result<(), (String, String)> {
    delivery.check(ids, device).map_err(|error| (String::new(), error.to_string()))?;
    if let Some(waits) = &delivery.waits {
        let field = "delivery.waits.data";
        if !waits.data.get().starts_with('{') {
            return Err((field.into(), "it must be a JSON object".into()));
        }
        check_json(field, waits.data.get()).map_err(|refusal| (field.into(), refusal.to_string()))?;
    }
    Ok(())
}
