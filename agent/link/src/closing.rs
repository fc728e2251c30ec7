//! Why a connection ends: maps TLS, HTTP/2 and gRPC failures to the closed list of reasons, with one line for the
//! local log.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use rustls::{AlertDescription, CertificateError, OtherError};
use tonic::{Code, Status};

use crate::ipc::{ClosedReason, TlsProblem, bounded_text};

/// A reason and its line.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    pub(crate) reason: ClosedReason,
    pub(crate) text: String,
}

impl Closing {
    pub(crate) fn new(reason: ClosedReason, text: impl AsRef<str>) -> Self {
        Self {
            reason,
            text: bounded_text(text.as_ref()),
        }
    }

    /// A failure of the TLS stream, during the handshake or later.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::cut();
        }
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(tls) => Self::from_tls(tls),
            None => Self::new(
                ClosedReason::PeerClosed,
                format!("the connection was lost: {error}"),
            ),
        }
    }

    pub(crate) fn from_tls(error: &rustls::Error) -> Self {
        if let rustls::Error::InvalidCertificate(problem) = error {
            return Self::from_certificate(problem);
        }
        if let rustls::Error::AlertReceived(alert) = error {
            return Self::from_alert(*alert);
        }
        if matches!(error, rustls::Error::NoApplicationProtocol) {
            return Self::intercepted();
        }
        Self::new(
            ClosedReason::Tls(TlsProblem::Other),
            format!("TLS failed: {error}"),
        )
    }

    fn from_certificate(problem: &CertificateError) -> Self {
        if matches!(
            problem,
            CertificateError::Expired | CertificateError::ExpiredContext { .. }
        ) {
            let text = format!(
                "the server's certificate has expired ({problem}); check this host's clock too"
            );
            return Self::new(ClosedReason::Tls(TlsProblem::Expired), text);
        }
        if matches!(
            problem,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
        ) {
            let text = format!(
                "the server's certificate is not valid yet ({problem}); check this host's clock"
            );
            return Self::new(ClosedReason::Tls(TlsProblem::NotYetValid), text);
        }
        let text = if let CertificateError::Other(OtherError(ours)) = problem {
            format!("the server's certificate is not an orchestrator's: {ours}")
        } else if matches!(
            problem,
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        ) {
            "the server's certificate is signed by no trusted root: a wrong address, or a proxy that opens TLS".into()
        } else {
            format!("the server's certificate is not an orchestrator's: {problem}")
        };
        Self::new(ClosedReason::Tls(TlsProblem::Untrusted), text)
    }

    fn from_alert(alert: AlertDescription) -> Self {
        let about_us = [
            AlertDescription::BadCertificate,
            AlertDescription::UnsupportedCertificate,
            AlertDescription::CertificateRevoked,
            AlertDescription::CertificateUnknown,
            AlertDescription::UnknownCA,
            AlertDescription::CertificateRequired,
            AlertDescription::AccessDenied,
        ];
        if alert == AlertDescription::NoApplicationProtocol {
            Self::intercepted()
        } else if alert == AlertDescription::CertificateExpired {
            let text = "the orchestrator says that this agent's certificate has ended";
            Self::new(ClosedReason::Expired, text)
        } else if about_us.contains(&alert) {
            let text = format!(
                "the orchestrator does not accept this agent's certificate (alert {alert:?})"
            );
            Self::new(ClosedReason::Unauthenticated, text)
        } else {
            Self::new(
                ClosedReason::Tls(TlsProblem::Other),
                format!("the server ended TLS with alert {alert:?}"),
            )
        }
    }

    /// TLS ended in the middle.
    fn cut() -> Self {
        let text = "the connection was cut without a goodbye: the orchestrator, or something on the way, went away";
        Self::new(ClosedReason::PeerClosed, text)
    }

    pub(crate) fn intercepted() -> Self {
        let text = "the server does not offer HTTP/2 (ALPN h2): a proxy on the way opens TLS, or the address is wrong";
        Self::new(ClosedReason::Intercepted, text)
    }

    /// A gRPC status that the orchestrator sent, or that the message layer made of what it received.
    pub(crate) fn from_status(status: &Status) -> Self {
        let reason = match status.code() {
            Code::Ok => ClosedReason::PeerClosed,
            Code::Unauthenticated => ClosedReason::Unauthenticated,
            Code::PermissionDenied
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition => ClosedReason::Refused,
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::Unknown => ClosedReason::Unavailable,
            Code::DeadlineExceeded => ClosedReason::Timeout,
            Code::InvalidArgument
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => ClosedReason::Protocol,
        };
        Self::new(
            reason,
            format!("{}: {}", status.code().description(), status.message()),
        )
    }

    /// HTTP/2 failed under a call: keepalive, reset, lost connection.
    pub(crate) fn from_transport(status: &Status) -> Self {
        let mut text = status.message().to_owned();
        let mut reason = ClosedReason::PeerClosed;
        let mut cause = status.source();
        while let Some(error) = cause {
            if is_cut(error) {
                return Self::cut();
            }
            if error
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_timeout)
            {
                reason = ClosedReason::Timeout;
            }
            // Writing to a String cannot fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        Self::new(reason, text)
    }

    /// The HTTP/2 connection itself reported this.
    pub(crate) fn from_http(error: &hyper::Error) -> Self {
        if error.is_timeout() {
            return Self::new(
                ClosedReason::Timeout,
                "the orchestrator did not answer a keepalive ping",
            );
        }
        let mut text = format!("the connection was lost: {error}");
        if let Some(cause) = error.source() {
            if is_cut(cause) {
                return Self::cut();
            }
            let _ = write!(text, ": {cause}");
        }
        Self::new(ClosedReason::PeerClosed, text)
    }
}

fn is_cut(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_code_has_its_reason() {
        use ClosedReason::{PeerClosed, Protocol, Refused, Timeout, Unauthenticated, Unavailable};
        let expected = [
            PeerClosed,
            Unavailable,
            Unavailable,
            Protocol,
            Timeout,
            Refused,
            Refused,
            Refused,
            Unavailable,
            Refused,
            Unavailable,
            Protocol,
            Protocol,
            Protocol,
            Unavailable,
            Protocol,
            Unauthenticated,
        ];
        for (code, reason) in expected.into_iter().enumerate() {
            let status = Status::new(Code::from(i32::try_from(code).unwrap()), "why\nso");
            let closing = Closing::from_status(&status);
            assert_eq!(closing.reason, reason, "code {code}");
            assert!(closing.text.ends_with("why so"));
        }
    }

    #[test]
    fn a_connection_that_was_cut_is_told_in_our_words() {
        let raw = io::Error::new(io::ErrorKind::UnexpectedEof, "see https://example.com");
        let closing = Closing::from_io(&raw);
        assert_eq!(closing.reason, ClosedReason::PeerClosed);
        assert!(closing.text.starts_with("the connection was cut"));
    }

    #[test]
    fn alerts_about_our_certificate_are_told_from_others() {
        let reason = |alert| Closing::from_tls(&rustls::Error::AlertReceived(alert)).reason;
        assert_eq!(
            reason(AlertDescription::CertificateRequired),
            ClosedReason::Unauthenticated
        );
        assert_eq!(
            reason(AlertDescription::CertificateExpired),
            ClosedReason::Expired
        );
        assert_eq!(
            reason(AlertDescription::NoApplicationProtocol),
            ClosedReason::Intercepted
        );
        assert_eq!(
            reason(AlertDescription::HandshakeFailure),
            ClosedReason::Tls(TlsProblem::Other)
        );
    }
}
