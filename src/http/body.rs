//! A request's body, read whole within a bound.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::patience::{LEAST_BYTES_A_SECOND, TooSlow};
use crate::domain::Refusal;

/// Bytes that are read and dropped behind the limit before the refusal is sent: closing a connection with unread bytes makes
/// the kernel reset it, and then the client may never see why.
const DRAINED_MAX: usize = 1024 * 1024;

/// The whole body.
///
/// # Errors
/// `BodyTooLarge` above `limit` bytes, `BodyTooSlow`, `BodyBroken`.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    read_counted(body, limit, |_| Ok(())).await
}

/// As [`read`]; `count` hears of the bytes of each piece before the next is read, and may refuse the rest.
///
/// # Errors
/// What `count` says, too.
pub async fn read_counted(mut body: Body, limit: usize, mut count: impl FnMut(usize) -> Result<(), Refusal>) -> Result<Bytes, Refusal> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return too_large(body, 0, limit).await;
    }
    let Some(first) = next(&mut body).await? else {
        return Ok(Bytes::new());
    };
    count(first.len())?;
    // The usual body comes in one piece: no copy.
    if body.is_end_stream() && first.len() <= limit {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(announced.max(first.len()).min(limit));
    let mut piece = Some(first);
    while let Some(bytes) = piece {
        if all.len() + bytes.len() > limit {
            return too_large(body, all.len() + bytes.len() - limit, limit).await;
        }
        all.extend_from_slice(&bytes);
        piece = next(&mut body).await?;
        count(piece.as_ref().map_or(0, Bytes::len))?;
    }
    Ok(all.freeze())
}

/// The next piece of a body. `None`: it is complete.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>, Refusal> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(broken(&error)),
        }
    }
}

async fn too_large(mut body: Body, mut dropped: usize, limit: usize) -> Result<Bytes, Refusal> {
    while dropped < DRAINED_MAX {
        match next(&mut body).await {
            Ok(Some(bytes)) => dropped += bytes.len(),
            Ok(None) | Err(_) => break,
        }
    }
    Err(Refusal::BodyTooLarge { limit })
}

fn broken(error: &axum::Error) -> Refusal {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(slow) = inner.downcast_ref::<TooSlow>() {
            return Refusal::BodyTooSlow {
                received: slow.received,
                least: LEAST_BYTES_A_SECOND,
            };
        }
        source = inner.source();
    }
    Refusal::BodyBroken(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use futures_util::{StreamExt, stream};
    use hyper::body::Frame;

    use super::super::patience::Patient;
    use super::*;

    fn pieces(pieces: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(pieces.iter().map(|piece| Ok::<_, Infallible>(*piece))))
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_its_limit() {
        assert_eq!(read(Body::empty(), 4).await, Ok(Bytes::new()));
        assert_eq!(read(Body::from("abcd"), 4).await, Ok(Bytes::from("abcd")));
        assert_eq!(read(pieces(&["ab", "", "cd"]), 4).await, Ok(Bytes::from("abcd")));
        assert_eq!(read(Body::from("abcde"), 4).await, Err(Refusal::BodyTooLarge { limit: 4 }));
        assert_eq!(read(pieces(&["ab", "cde"]), 4).await, Err(Refusal::BodyTooLarge { limit: 4 }));
        assert_eq!(read(pieces(&["abcde"]), 4).await, Err(Refusal::BodyTooLarge { limit: 4 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), ()))
        });
        let body = http_body_util::StreamBody::new(drip.boxed());
        let refused = read(Body::new(Patient::new(body, Duration::from_secs(10))), 1000).await;
        assert_eq!(refused, Err(Refusal::BodyTooSlow { received: 3, least: 1024 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_worked_on_between_its_pieces_has_its_whole_time_for_the_next() {
        let steady = stream::unfold(0, |count| async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            (count < 4).then_some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))), count + 1))
        });
        let body = http_body_util::StreamBody::new(steady.boxed());
        let mut body = Body::new(Patient::new(body, Duration::from_secs(10)));
        let mut pieces = 0;
        while next(&mut body).await.unwrap().is_some() {
            pieces += 1;
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        assert_eq!(pieces, 4);
    }
}
