//! Parameters of a request become values to bind.

use std::{collections::HashSet, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;
use springhouse_gateway::api::{
    error::{ApiError, ErrorCode},
    types::Params,
};

use super::raw::Value;

fn bad(why: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, why)
}

/// The values in the order of the statement's parameters. `names`: name with sigil of each, `None` for
/// those that have none.
pub(super) fn resolve(params: &Params, names: &[Option<String>]) -> Result<Vec<Value>, ApiError> {
    match params {
        Params::Positional(values) => row(values, names.len()),
        Params::Named(given) => {
            let mut used = HashSet::with_capacity(given.len());
            let mut values = Vec::with_capacity(names.len());
            let mut missing = Vec::new();
            for name in names {
                let Some(name) = name else {
                    return Err(bad(
                        "the statement has parameters without a name: give an array of parameters",
                    ));
                };
                match (given.get_key_value(name.as_str()), given.get_key_value(&name[1..])) {
                    (None, None) => missing.push(name.as_str()),
                    (Some((key, json)), None) | (None, Some((key, json))) => {
                        used.insert(key.as_str());
                        values.push(value(json, &key)?);
                    }
                    (Some(_), Some(_)) => return Err(bad(format!("parameter {name} is given twice"))),
                }
            }
            if !missing.is_empty() {
                return Err(bad(format!("no value for parameter {}", missing.join(", "))));
            }
            let unknown: Vec<_> =
                given.keys().map(String::as_str).filter(|key| !used.contains(key)).collect();
            if unknown.is_empty() {
                Ok(values)
            } else {
                Err(bad(format!("the statement has no parameter {}", unknown.join(", "))))
            }
        }
    }
}

/// The values of one row of positional parameters for a statement that has `expected` of them.
pub(super) fn row(values: &[Json], expected: usize) -> Result<Vec<Value>, ApiError> {
    if values.len() != expected {
        let given = values.len();
        return Err(bad(format!("the statement has {expected} parameters, {given} were given")));
    }
    values.iter().enumerate().map(|(at, json)| value(json, &(at + 1))).collect()
}

/// `name` is written only where something is wrong with the value.
fn value(json: &Json, name: &dyn fmt::Display) -> Result<Value, ApiError> {
    let bytes =
        |text: &str| STANDARD.decode(text).map_err(|e| bad(format!("parameter {name} is not base64: {e}")));
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Integer(i64::from(*truth)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::Integer(integer),
            (None, Some(real)) if !number.is_u64() => Value::Real(real),
            _ => {
                return Err(bad(format!(
                    "parameter {name} is {number}: integers are from -2^63 to 2^63-1 (write 1.0 for a real)"
                )));
            }
        },
        Json::String(text) => Value::Text(text.clone().into_bytes()),
        Json::Object(object) => match object.iter().next() {
            Some((tag, Json::String(text))) if object.len() == 1 => match (tag.as_str(), text.as_str()) {
                ("$base64", text) => Value::Blob(bytes(text)?),
                ("$base64text", text) => Value::Text(bytes(text)?),
                ("$float", "Infinity") => Value::Real(f64::INFINITY),
                ("$float", "-Infinity") => Value::Real(f64::NEG_INFINITY),
                // SQLite has no NaN: it stores NULL for it.
                ("$float", "NaN") => Value::Null,
                _ => return Err(bad_object(name)),
            },
            _ => return Err(bad_object(name)),
        },
        Json::Array(_) => return Err(bad_object(name)),
    })
}

fn bad_object(name: &dyn fmt::Display) -> ApiError {
    bad(format!(
        "parameter {name} must be null, true, false, a number, a text, {{\"$base64\": …}}, {{\"$base64text\": …}} or {{\"$float\": \"Infinity\" | \"-Infinity\" | \"NaN\"}}"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn positional(json: Json) -> Result<Vec<Value>, String> {
        let params: Params = serde_json::from_value(json).expect("params");
        let Params::Positional(values) = &params else { panic!("an array") };
        resolve(&params, &vec![None; values.len()]).map_err(|e| e.message)
    }

    fn named(json: Json, names: &[&str]) -> Result<Vec<Value>, String> {
        let names: Vec<_> = names.iter().map(|name| Some((*name).to_owned())).collect();
        resolve(&serde_json::from_value(json).expect("params"), &names).map_err(|e| e.message)
    }

    #[test]
    fn every_kind_of_value() {
        assert_eq!(
            positional(json!([
                null, true, i64::MIN, i64::MAX, 1.5, -0.0, "ü\0", {"$base64": "AP8="},
                {"$base64text": "/w=="}, {"$float": "-Infinity"}, {"$float": "NaN"}
            ])),
            Ok(vec![
                Value::Null,
                Value::Integer(1),
                Value::Integer(i64::MIN),
                Value::Integer(i64::MAX),
                Value::Real(1.5),
                Value::Real(-0.0),
                Value::Text("ü\0".into()),
                Value::Blob(vec![0, 255]),
                Value::Text(vec![255]),
                Value::Real(f64::NEG_INFINITY),
                Value::Null,
            ])
        );
    }

    #[test]
    fn bad_values_name_the_parameter() {
        for (bad, hint) in [
            (json!([1, (1_u64 << 63)]), "parameter 2 is 9223372036854775808"),
            (json!([{"$base64": "?"}]), "parameter 1 is not base64"),
            (json!([{"$float": "x"}]), "parameter 1 must be"),
            (json!([{}]), "parameter 1 must be"),
            (json!([[1]]), "parameter 1 must be"),
        ] {
            let error = positional(bad).expect_err(hint);
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn names_with_and_without_sigil() {
        assert_eq!(
            named(json!({"a": 1, "@b": 2, "$c": 3}), &[":a", "@b", "$c"]),
            Ok(vec![Value::Integer(1), Value::Integer(2), Value::Integer(3)])
        );
        for (params, names, hint) in [
            (json!({"a": 1}), &[":a", ":b", "@c"][..], "no value for parameter :b, @c"),
            (json!({"a": 1, "x": 2}), &[":a"][..], "no parameter x"),
            (json!({"a": 1, ":a": 2}), &[":a"][..], "given twice"),
        ] {
            let error = named(params, names).expect_err(hint);
            assert!(error.contains(hint), "{error}");
        }
        let error = resolve(&Params::Named(serde_json::Map::new()), &[None]).expect_err("no name");
        assert!(error.message.contains("array"), "{error}");
        let error = resolve(&Params::Positional(vec![]), &[None]).expect_err("too few");
        assert!(error.message.contains("has 1 parameters, 0 were given"), "{error}");
    }
}
