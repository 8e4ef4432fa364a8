//! Which format an `Accept` header asks for.

use springhouse_gateway::{
    api::error::{ApiError, ErrorCode},
    trough::ROWS_CONTENT_TYPE,
};

use crate::query::Format;

/// The best of our formats by quality; JSON where the client does not mind.
pub(super) fn negotiate<'a>(headers: impl Iterator<Item = &'a str>) -> Result<Format, ApiError> {
    let ranges: Vec<(String, u32)> = headers.flat_map(|line| line.split(',')).filter_map(parse).collect();
    if ranges.is_empty() {
        return Ok(Format::Json);
    }
    let formats = [
        (Format::Json, &["application/json", "application/*", "*/*"][..]),
        (Format::Ndjson, &["application/x-ndjson", "application/ndjson", "application/*", "*/*"][..]),
        // Only who names it gets it.
        (Format::Trough, &[ROWS_CONTENT_TYPE][..]),
    ];
    formats
        .into_iter()
        .filter_map(|(format, names)| {
            // The most specific range that matches decides, so `*/*, application/json;q=0` is NDJSON.
            let quality = names.iter().find_map(|name| ranges.iter().find(|(range, _)| range == name))?.1;
            (quality > 0).then_some((format, quality))
        })
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
        .map(|(format, _)| format)
        .ok_or_else(|| {
            ApiError::new(
                ErrorCode::NotAcceptable,
                "answers are application/json or application/x-ndjson; accept one of them",
            )
        })
}

/// Media range in lower case and quality in thousandths.
fn parse(range: &str) -> Option<(String, u32)> {
    let mut parts = range.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let quality = parts
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"))
        .map_or(1.0, |(_, value)| value.trim().parse::<f32>().unwrap_or(0.0));
    Some((name, (quality.clamp(0.0, 1.0) * 1000.0) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (accept, expected) in [
            (&[][..], Some(Format::Json)),
            (&["*/*"], Some(Format::Json)),
            (&["application/json"], Some(Format::Json)),
            (&["application/x-ndjson"], Some(Format::Ndjson)),
            (&["Application/X-NDJSON; charset=utf-8"], Some(Format::Ndjson)),
            (&["application/json;q=0.5, application/x-ndjson"], Some(Format::Ndjson)),
            (&["application/json;q=0.5", "application/x-ndjson;q=0.4"], Some(Format::Json)),
            (&["*/*, application/json;q=0"], Some(Format::Ndjson)),
            (&["application/*;q=0.1"], Some(Format::Json)),
            (&["text/html, */*;q=0.8"], Some(Format::Json)),
            (&["application/x-trough-rows"], Some(Format::Trough)),
            (&["text/csv"], None),
            (&["application/json;q=0"], None),
            (&[""], Some(Format::Json)),
        ] {
            assert_eq!(negotiate(accept.iter().copied()).ok(), expected, "{accept:?}");
        }
    }
}
