//! What a device reports of itself, beside the facts that its backend keeps about it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Timestamp;

/// The deepest nesting of what a device reports.
pub(super) const DEPTH_MAX: usize = 32;

/// Where a device says that it is (XEP-0080 §3), in WGS 84.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Degrees north, -90 to 90.
    pub lat: f64,
    /// Degrees east, -180 to 180.
    pub lon: f64,
    /// Horizontal error in metres, not negative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// When it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
}

impl Location {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The name of the member that is out of its range.
    pub fn new(lat: f64, lon: f64, accuracy: Option<f64>, timestamp: Option<Timestamp>) -> Result<Self, &'static str> {
        if !(-90.0..=90.0).contains(&lat) {
            return Err("lat");
        }
        if !(-180.0..=180.0).contains(&lon) {
            return Err("lon");
        }
        if accuracy.is_some_and(|metres| !metres.is_finite() || metres < 0.0) {
            return Err("accuracy");
        }
        Ok(Self {
            lat,
            lon,
            accuracy,
            timestamp,
        })
    }
}

/// What one stanza of a device reports: what it does not name stays as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// All of its attributes: they replace those before.
    pub attributes: Option<Map<String, Value>>,
    /// Where it is; `Some(None)`: it tells that no more.
    pub location: Option<Option<Location>>,
}

impl Report {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_none() && self.location.is_none()
    }

    /// A later report goes before this one, where it says something.
    pub fn then(&mut self, later: Self) {
        if later.attributes.is_some() {
            self.attributes = later.attributes;
        }
        if later.location.is_some() {
            self.location = later.location;
        }
    }
}

/// All that a device has reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Its attributes.
    pub attributes: Map<String, Value>,
    /// Where it is, if it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// When that changed.
    pub at: Timestamp,
}

impl Reported {
    /// Takes a report in. False: it says nothing new, and `at` stays.
    pub fn take(&mut self, report: Report, now: Timestamp) -> bool {
        let attributes = report.attributes.filter(|attributes| *attributes != self.attributes);
        let location = report.location.filter(|location| *location != self.location);
        let changed = attributes.is_some() || location.is_some();
        if let Some(attributes) = attributes {
            self.attributes = attributes;
        }
        if let Some(location) = location {
            self.location = location;
        }
        if changed {
            self.at = now;
        }
        changed
    }

    /// One object, as filters and answers name it: the attributes, and `location` when the device tells where it is.
    pub fn object(&self) -> Map<String, Value> {
        let mut object = self.attributes.clone();
        if let Some(location) = self.location.as_ref().and_then(|location| serde_json::to_value(location).ok()) {
            object.insert("location".into(), location);
        }
        object
    }
}

/// Reads attributes that a device reports: a JSON object of at most `max_bytes`, nested at most 32 deep.
///
/// # Errors
/// What is wrong, where, and what to do.
pub fn reported_attributes(json: &str, max_bytes: usize) -> Result<Map<String, Value>, String> {
    if json.len() > max_bytes {
        return Err(format!("attributes: {} bytes; at most {max_bytes} are allowed", json.len()));
    }
    let value: Value = serde_json::from_str(json).map_err(|error| format!("attributes: {error}"))?;
    if !depth_fits(&value, DEPTH_MAX) {
        return Err(format!("attributes: nested deeper than {DEPTH_MAX} levels"));
    }
    match value {
        Value::Object(map) => Ok(map),
        _ => Err("attributes: it must be a JSON object".into()),
    }
}

/// Whether a value is nested at most so deep. serde_json reads at most 128 levels, which bounds the recursion.
pub(super) fn depth_fits(value: &Value, levels: usize) -> bool {
    let below = levels.checked_sub(1);
    match value {
        Value::Object(map) => below.is_some_and(|below| map.values().all(|value| depth_fits(value, below))),
        Value::Array(items) => below.is_some_and(|below| items.iter().all(|item| depth_fits(item, below))),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_an_object_of_bounded_size_and_depth() {
        let deep = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert_eq!(reported_attributes(r#"{"fw":"7.1"}"#, 100).unwrap().len(), 1);
        assert!(reported_attributes(&deep(32), 1000).is_ok());
        for (json, why) in [
            (deep(33).as_str(), "attributes: nested deeper than 32 levels"),
            (r#"{"fw":}"#, "attributes: expected value at line 1 column 7"),
            ("[1]", "attributes: it must be a JSON object"),
            ("{\"x\":\"0123456789\"}", "attributes: 18 bytes; at most 17 are allowed"),
        ] {
            let max = if why.contains("at most 17") { 17 } else { 1000 };
            assert_eq!(reported_attributes(json, max), Err(why.to_owned()));
        }
    }

    #[test]
    fn a_location_is_on_earth() {
        assert!(Location::new(-90.0, 180.0, Some(0.0), None).is_ok());
        assert_eq!(Location::new(90.1, 0.0, None, None), Err("lat"));
        assert_eq!(Location::new(f64::NAN, 0.0, None, None), Err("lat"));
        assert_eq!(Location::new(0.0, -180.5, None, None), Err("lon"));
        assert_eq!(Location::new(0.0, 0.0, Some(f64::INFINITY), None), Err("accuracy"));
    }

    #[test]
    fn what_a_report_does_not_name_stays() {
        let attributes = |json| reported_attributes(json, 100).unwrap();
        let here = Location::new(1.0, 2.0, None, None).unwrap();
        let mut report = Report {
            attributes: Some(attributes(r#"{"a":1,"b":2}"#)),
            location: Some(Some(here.clone())),
        };
        let mut reported = Reported::default();
        assert!(reported.take(report.clone(), Timestamp(5)));
        assert!(!reported.take(report.clone(), Timestamp(6)), "nothing is new");
        assert_eq!(reported.at, Timestamp(5));
        report.then(Report {
            attributes: Some(attributes(r#"{"a":3}"#)),
            location: None,
        });
        assert!(reported.take(report, Timestamp(7)));
        assert_eq!(
            Value::Object(reported.object()),
            serde_json::json!({"a": 3, "location": {"lat": 1.0, "lon": 2.0}})
        );
        let gone = Report {
            attributes: None,
            location: Some(None),
        };
        assert!(reported.take(gone, Timestamp(8)));
        assert_eq!(Value::Object(reported.object()), serde_json::json!({"a": 3}));
    }
}
