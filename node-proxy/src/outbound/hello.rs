//! The ClientHello of a client whose connection a TLSRoute decides about: read, and left to go on as it is.

use crate::error::FailureReason;
use crate::forward::Source;
use crate::http1::ReadBuffer;
use crate::tls::client_hello::{HelloPeek, find_hello};

/// Reads until the ClientHello is whole, and returns the server name that it asks for, in lower case. What was read
/// stays in the buffer. There is no timer: a client may be silent for as long as it likes, as on a port of HTTP.
///
/// # Errors
/// `NotTls` as soon as the bytes can be no ClientHello, or are more than one may have; `ClientClosed` when the client
/// ends before.
pub(crate) async fn read_server_name(
    (stream, buffer): (&mut impl Source, &mut ReadBuffer),
) -> Result<Option<String>, FailureReason> {
    loop {
        match find_hello(buffer.unread()) {
            HelloPeek::Whole(hello) => return Ok(hello.sni),
            HelloPeek::NotTls => return Err(FailureReason::NotTls),
            HelloPeek::Incomplete => {}
        }
        match buffer.fill(stream).await {
            Ok(count) if count > 0 => {}
            Ok(_) | Err(_) => return Err(FailureReason::ClientClosed),
        }
    }
}
