//! The least HTTP client that there is: one connection, kept alive, so that the server is measured and
//! not the client.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

pub struct KeepAlive {
    stream: TcpStream,
    address: String,
    answer: Vec<u8>,
}

impl KeepAlive {
    pub fn to(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, address: address.into(), answer: Vec::new() }
    }

    /// The bytes of a POST request.
    pub fn request(&self, path: &str, body: &str) -> Vec<u8> {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .into_bytes()
    }

    /// Sends a request and reads the whole answer, head and chunks as they are.
    pub fn ask(&mut self, request: &[u8]) -> &[u8] {
        self.stream.write_all(request).expect("the request is taken");
        self.answer.clear();
        let mut chunk = [0; 16 << 10];
        while !self.is_whole() {
            let n = self.stream.read(&mut chunk).expect("an answer");
            assert!(n > 0, "the connection ended: {}", String::from_utf8_lossy(&self.answer));
            self.answer.extend_from_slice(&chunk[..n]);
        }
        &self.answer
    }

    fn is_whole(&self) -> bool {
        let Some(head_end) = find(&self.answer, b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&self.answer[..head_end]).to_ascii_lowercase();
        match head.lines().find_map(|line| line.strip_prefix("content-length:")) {
            Some(length) => self.answer.len() - head_end - 4 >= length.trim().parse().expect("a length"),
            None => self.answer.ends_with(b"\r\n0\r\n\r\n"),
        }
    }
}

pub fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
