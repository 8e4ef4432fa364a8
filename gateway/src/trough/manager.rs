//! The manager's port, 6111: provisioning, promotion, schemas, deletion.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::{Method, StatusCode},
    response::Response,
    routing::{delete, get, post},
};
use serde_json::{Map, Value};

use super::{
    Backend, Ports, Provisioned, SchemaError, SchemaPut, Settings,
    answer::{answer, flask_empty, flask_json, flask_page, flask_text},
    json::{object, python_repr, python_set, string},
    request::{text_of, write_url},
};
use crate::{
    api::error::{ApiError, ErrorCode},
    segment::SegmentId,
};

/// The schema of a request that names none.
const SCHEMA_DEFAULT: &str = "default";

/// Trough's manager.
pub fn manager_router(backend: Arc<dyn Backend>, settings: Settings) -> Router {
    Router::new()
        .route("/", post(simple_provision))
        .route("/provision", post(provision))
        .route("/promote", post(promote))
        .route("/schema", get(schemas))
        .route("/schema/{id}", get(schema).put(put_schema))
        .route("/schema/{id}/sql", get(schema_sql).put(put_schema_sql))
        .route("/segment/{id}", delete(delete_segment))
        .fallback(|| async { Response::from(page(StatusCode::NOT_FOUND, "There is no such path.")) })
        .method_not_allowed_fallback(|method: Method| async move {
            // Which methods there are stands in `allow`, for either.
            if method == Method::OPTIONS {
                return flask_empty(StatusCode::OK);
            }
            let why = format!("This path exists, but not for {method}.");
            Response::from(page(StatusCode::METHOD_NOT_ALLOWED, why))
        })
        .with_state(Ports { backend, settings: Arc::new(settings) })
}

/// An answer that ends a request early.
enum Refusal {
    /// A page with the reason.
    Page(StatusCode, String),
    /// 400, as text.
    Text(String),
    /// 400, as `{"error"}`.
    Json(String),
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Page(status, reason) => flask_page(status, &reason),
            Refusal::Text(text) => flask_text(StatusCode::BAD_REQUEST, text),
            // Not Trough's own JSON but Flask's, which ends its lines.
            Refusal::Json(why) => {
                let json = [object(&[("error", string(&why))]), b"\n".to_vec()].concat();
                flask_json(StatusCode::BAD_REQUEST, json)
            }
        }
    }
}

type Answer = Result<Response, Refusal>;

fn whole(answer: Answer) -> Response {
    answer.unwrap_or_else(Response::from)
}

fn page(status: StatusCode, reason: impl Into<String>) -> Refusal {
    Refusal::Page(status, reason.into())
}

/// Trough's manager answers 500 wherever it does not say otherwise.
fn failed(error: ApiError) -> Refusal {
    page(StatusCode::INTERNAL_SERVER_ERROR, error.message)
}

fn bad(why: impl Into<String>) -> Refusal {
    page(StatusCode::BAD_REQUEST, why)
}

fn cold(segment: &SegmentId) -> String {
    format!(
        "cannot provision segment {segment} for writing because that segment id is in the read-only cold \
         storage range"
    )
}

/// `POST /`: a segment's id in, its write url out. Deprecated in Trough, and used.
async fn simple_provision(State(ports): State<Ports>, request: Request) -> Response {
    let answer = async {
        let (parts, body) = request.into_parts();
        let id = text_of(&ports, body).await.map_err(own_failure)?;
        let segment = segment(&id)?;
        let provisioned = ports.backend.provision(segment.clone(), SCHEMA_DEFAULT).await;
        provisioned.map_err(|error| match error.code {
            ErrorCode::ColdRange => own_failure(cold(&segment)),
            _ => failed(error),
        })?;
        Ok(flask_text(StatusCode::OK, write_url(&ports.settings, &parts, &segment)))
    };
    whole(answer.await)
}

/// `POST /provision`
async fn provision(State(ports): State<Ports>, request: Request) -> Response {
    let answer = async {
        let (parts, body) = request.into_parts();
        let request = json_object(&ports, body, StatusCode::BAD_REQUEST).await?;
        let segment = segment_in(&request)?;
        let schema = match request.get("schema") {
            None | Some(Value::Null) => SCHEMA_DEFAULT,
            Some(Value::String(schema)) => schema,
            Some(_) => return Err(own_failure("The schema must be the id of a schema.")),
        };
        let provisioned = ports.backend.provision(segment.clone(), schema).await;
        let Provisioned { size } = provisioned.map_err(|error| match error.code {
            ErrorCode::ColdRange => Refusal::Json(cold(&segment)),
            _ => failed(error),
        })?;
        let url = write_url(&ports.settings, &parts, &segment);
        Ok(flask_json(
            StatusCode::OK,
            object(&[
                ("write_url", string(&url)),
                ("result", string("success")),
                ("size", size.to_string().into_bytes()),
                ("schema", string(schema)),
            ]),
        ))
    };
    whole(answer.await)
}

/// `POST /promote`
async fn promote(State(ports): State<Ports>, request: Request) -> Response {
    let answer = async {
        let body = request.into_body();
        let request = json_object(&ports, body, StatusCode::INTERNAL_SERVER_ERROR).await?;
        let segment = segment_in(&request)?;
        let path = ports.backend.promote(segment).await.map_err(failed)?;
        Ok(flask_json(StatusCode::OK, object(&[("remote_path", string(&path))])))
    };
    whole(answer.await)
}

/// `DELETE /segment/ID`
async fn delete_segment(State(ports): State<Ports>, Path(id): Path<String>) -> Response {
    let answer = async {
        // What is no id is no segment.
        let id = SegmentId::parse(&id).map_err(|e| page(StatusCode::NOT_FOUND, e.to_string()))?;
        ports.backend.delete(id).await.map_err(|error| match error.code {
            ErrorCode::SegmentNotFound => page(StatusCode::NOT_FOUND, error.message),
            ErrorCode::Locked | ErrorCode::Unpromoted | ErrorCode::Conflict => bad(error.message),
            _ => failed(error),
        })?;
        Ok(flask_empty(StatusCode::NO_CONTENT))
    };
    whole(answer.await)
}

/// `GET /schema`
async fn schemas(State(ports): State<Ports>) -> Response {
    match ports.backend.schemas().await {
        Ok(ids) => {
            let ids: Vec<Vec<u8>> = ids.iter().map(|id| string(id)).collect();
            flask_json(StatusCode::OK, [&b"["[..], &ids.join(&b','), b"]"].concat())
        }
        Err(error) => failed(error).into(),
    }
}

/// `GET /schema/ID`
async fn schema(State(ports): State<Ports>, Path(id): Path<String>) -> Response {
    let found =
        |sql: String| flask_json(StatusCode::OK, object(&[("id", string(&id)), ("sql", string(&sql))]));
    whole(sql_of(&ports, &id).await.map(found))
}

/// `GET /schema/ID/sql`
async fn schema_sql(State(ports): State<Ports>, Path(id): Path<String>) -> Response {
    let found = |sql: String| answer(StatusCode::OK, "application/sql; charset=utf-8", sql);
    whole(sql_of(&ports, &id).await.map(found))
}

async fn sql_of(ports: &Ports, id: &str) -> Result<String, Refusal> {
    let sql = ports.backend.schema(id).await.map_err(failed)?;
    sql.ok_or_else(|| page(StatusCode::NOT_FOUND, format!("There is no schema {id}.")))
}

/// `PUT /schema/ID`
async fn put_schema(State(ports): State<Ports>, Path(id): Path<String>, request: Request) -> Response {
    let text = Refusal::Text;
    let answer = async {
        let body = text_of(&ports, request.into_body()).await.map_err(text)?;
        let schema = match serde_json::from_str(&body) {
            Ok(Value::Object(schema)) => schema,
            Ok(_) => return Err(own_failure("The schema must be a JSON object.")),
            Err(_) => return Err(text("input could not be parsed as json".into())),
        };
        let (Some(named), Some(sql), 2) = (schema.get("id"), schema.get("sql"), schema.len()) else {
            let keys = python_set(schema.keys().map(String::as_str));
            return Err(text(format!("input json has keys {keys} (should be {{'id', 'sql'}})")));
        };
        if named.as_str() != Some(&id) {
            let (named, id) = (python_repr(named), python_repr(&Value::String(id)));
            return Err(text(format!("id in json {named} does not match id in url {id}")));
        }
        let Some(sql) = sql.as_str() else {
            return Err(own_failure(format!("The SQL of a schema is text, not {}.", python_repr(sql))));
        };
        store(&ports, &id, sql).await
    };
    whole(answer.await)
}

/// `PUT /schema/ID/sql`
async fn put_schema_sql(State(ports): State<Ports>, Path(id): Path<String>, request: Request) -> Response {
    let answer = async {
        let sql = text_of(&ports, request.into_body()).await;
        let sql = sql.map_err(Refusal::Text)?;
        store(&ports, &id, &sql).await
    };
    whole(answer.await)
}

async fn store(ports: &Ports, id: &str, sql: &str) -> Answer {
    match ports.backend.put_schema(id, sql).await {
        Ok(SchemaPut::Created) => Ok(flask_empty(StatusCode::CREATED)),
        Ok(SchemaPut::Replaced) => Ok(flask_empty(StatusCode::NO_CONTENT)),
        Err(SchemaError::Invalid(why)) => Err(Refusal::Text(format!("schema sql failed validation: {why}"))),
        // An id that cannot be one, or one that is taken for good.
        Err(SchemaError::Failed(error)) if error.code.status_and_retry().0.is_client_error() => {
            Err(Refusal::Text(error.message))
        }
        Err(SchemaError::Failed(error)) => Err(failed(error)),
    }
}

/// The request. `unread`: how Trough answers what is no JSON; what is no object is its own failure.
async fn json_object(
    ports: &Ports,
    body: axum::body::Body,
    unread: StatusCode,
) -> Result<Map<String, Value>, Refusal> {
    let text = text_of(ports, body).await.map_err(|why| page(unread, why))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(own_failure("The request must be a JSON object.")),
        Err(error) => Err(page(unread, format!("The request is not JSON: {error}."))),
    }
}

fn segment_in(request: &Map<String, Value>) -> Result<SegmentId, Refusal> {
    match request.get("segment") {
        Some(Value::String(id)) => segment(id),
        // Clients have numbers as ids too.
        Some(Value::Number(id)) if id.is_i64() || id.is_u64() => segment(&id.to_string()),
        _ => Err(own_failure("The request names no segment.")),
    }
}

fn segment(id: &str) -> Result<SegmentId, Refusal> {
    SegmentId::parse(id).map_err(|e| own_failure(e.to_string()))
}

/// Where Trough fails by an exception of its own.
fn own_failure(reason: impl Into<String>) -> Refusal {
    page(StatusCode::INTERNAL_SERVER_ERROR, reason)
}
