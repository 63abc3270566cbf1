//! The page and its parts, embedded in the binary: `GET /` and one path for each file of `web/`.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::ApiError;
use crate::wire::code::ErrorCode;

/// A file of the page.
struct Asset {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        &[$(Asset { name: $name, bytes: include_bytes!(concat!("../../../web/", $name)) }),*]
    };
}

/// Every file of `web/`; a test compares it with the folder.
const ASSETS: &[Asset] = assets![
    "app.js",
    "connection.js",
    "export.js",
    "file.js",
    "icon.svg",
    "index.html",
    "latency.js",
    "level.js",
    "messages.js",
    "microphone.js",
    "page.js",
    "picture.js",
    "player.js",
    "problems.js",
    "recording.js",
    "runs.js",
    "sample.flac",
    "server.js",
    "settings.js",
    "snippets.js",
    "spectrum.js",
    "status.js",
    "style.css",
    "transcript.js",
    "view.js",
    "worklet.js",
];

/// `GET /`.
pub(super) async fn index(headers: HeaderMap) -> Response {
    serve("index.html", &headers)
}

/// `GET /{name}`.
pub(super) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    serve(&name, &headers)
}

fn serve(name: &str, headers: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return ApiError::new(ErrorCode::NotFound).into_response();
    };
    let tag = format!("\"{}\"", hex(&Sha256::digest(asset.bytes)[..16]));
    let fresh = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value
                .split(',')
                .any(|known| known.trim().trim_start_matches("W/") == tag)
        });
    let mut response = if fresh {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        asset.bytes.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    // Asked for again each time, sent again only when it changed: an upgraded server shows its new page at once.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("flac") => "audio/flac",
        Some("wav") => "audio/wav",
        Some("png") => "image/png",
        Some("webmanifest" | "json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_folder() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../web");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".md") && !name.starts_with('.'))
            .collect();
        files.sort();
        let mut table: Vec<String> = ASSETS.iter().map(|asset| asset.name.into()).collect();
        table.sort();
        assert_eq!(table, files);
        assert!(
            table
                .iter()
                .all(|name| content_type(name) != "application/octet-stream")
        );
    }

    #[test]
    fn a_known_tag_saves_the_body() {
        let first = serve("index.html", &HeaderMap::new());
        assert_eq!(first.status(), StatusCode::OK);
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(serve("index.html", &headers).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(serve("../Cargo.toml", &headers).status(), StatusCode::NOT_FOUND);
    }
}
