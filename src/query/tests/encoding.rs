//! What is written is what was meant: any row, read back by a JSON parser, has the same values.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::prelude::*;

use super::*;
use crate::query::{
    encode::{Encoder, failure_tail},
    raw::{Value, ValueRef},
};

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        Just(Value::Integer(i64::MIN)),
        // SQLite has no NaN.
        any::<f64>().prop_filter("a number", |real| !real.is_nan()).prop_map(Value::Real),
        Just(Value::Real(f64::NEG_INFINITY)),
        any::<String>().prop_map(|text| Value::Text(text.into_bytes())),
        "[\\x00-\\x1f\"\\\\a]{0,20}".prop_map(|text| Value::Text(text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
    ]
}

fn borrow(value: &Value) -> ValueRef<'_> {
    match value {
        Value::Null => ValueRef::Null,
        Value::Integer(integer) => ValueRef::Integer(*integer),
        Value::Real(real) => ValueRef::Real(*real),
        Value::Text(text) => ValueRef::Text(text),
        Value::Blob(blob) => ValueRef::Blob(blob),
    }
}

fn read_back(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Real(number.as_f64().expect("a real")),
        },
        Json::String(text) => Value::Text(text.clone().into_bytes()),
        Json::Object(object) => {
            let (tag, text) = object.iter().next().expect("a tag");
            let text = text.as_str().expect("a text");
            match tag.as_str() {
                "$base64" => Value::Blob(STANDARD.decode(text).expect("base64")),
                "$base64text" => Value::Text(STANDARD.decode(text).expect("base64")),
                "$float" => Value::Real(text.replace("Infinity", "inf").parse().expect("an infinity")),
                other => panic!("{other}"),
            }
        }
        other => panic!("{other}"),
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

fn write(format: Format, rows: &[Vec<Value>]) -> String {
    let mut encoder = Encoder::new(format, u64::MAX, u64::MAX);
    encoder.head(Generation([7; 16]), &[]);
    for row in rows {
        encoder.row(row.iter().map(|value| Ok::<_, ()>(borrow(value)))).expect("no limit");
    }
    encoder.end(false);
    String::from_utf8(encoder.take().to_vec()).expect("UTF-8")
}

proptest! {
    #[test]
    fn any_rows_come_back(rows in proptest::collection::vec(proptest::collection::vec(any_value(), 1..5), 0..6)) {
        let text = write(Format::Json, &rows);
        let json: Json = serde_json::from_str(&text).expect("JSON");
        let ndjson = write(Format::Ndjson, &rows);
        let lines: Vec<Json> = ndjson.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        prop_assert_eq!(lines.len(), rows.len() + 2);
        prop_assert_eq!(&lines[rows.len() + 1]["end"]["rows"], &Json::from(rows.len()));
        for (at, row) in rows.iter().enumerate() {
            for (column, value) in row.iter().enumerate() {
                let back = read_back(&json["rows"][at][column]);
                prop_assert!(same(value, &back), "{:?} became {:?}", value, back);
                prop_assert!(same(value, &read_back(&lines[at + 1][column])));
            }
        }
    }

    /// Wherever the stream is cut between rows, the error closes it.
    #[test]
    fn a_failed_answer_is_whole_json(rows in proptest::collection::vec(proptest::collection::vec(any_value(), 1..3), 0..4)) {
        let error = ApiError::new(ErrorCode::DeadlineExceeded, "too \"late\"");
        for format in [Format::Json, Format::Ndjson] {
            let mut encoder = Encoder::new(format, u64::MAX, u64::MAX);
            encoder.head(Generation([7; 16]), &[]);
            for row in &rows {
                encoder.row(row.iter().map(|value| Ok::<_, ()>(borrow(value)))).expect("no limit");
            }
            let mut bytes = encoder.take().to_vec();
            bytes.extend(failure_tail(format, &error));
            let last: Json = match format {
                Format::Json => serde_json::from_slice(&bytes).expect("JSON"),
                Format::Ndjson => {
                    let text = String::from_utf8(bytes).expect("UTF-8");
                    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
                }
                Format::Trough => unreachable!("it has no words for it"),
            };
            prop_assert_eq!(&last["error"]["code"], "deadline_exceeded");
            prop_assert_eq!(&last["error"]["message"], "too \"late\"");
        }
    }
}

#[test]
fn a_row_over_a_limit_leaves_no_trace() {
    let mut encoder = Encoder::new(Format::Ndjson, 500_000, 100_000);
    encoder.head(Generation([7; 16]), &[]);
    let head = encoder.ready();
    let blob = vec![0; 90_000];
    let row = |bytes: usize| [Ok::<_, ()>(ValueRef::Blob(&blob[..bytes]))].into_iter();
    assert!(encoder.row(row(90_000)).is_err(), "120,000 characters");
    assert_eq!(encoder.ready(), head);
    encoder.row(row(3)).expect("small");
    assert_eq!(encoder.rows(), 1);
}
