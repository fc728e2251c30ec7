//! PEM text to DER and back, for files that people and other tools read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// A text without the PEM section that was looked for.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// No `BEGIN CERTIFICATE` section.
    #[error(
        "there is no certificate in it: expected a section that begins with -----BEGIN CERTIFICATE-----"
    )]
    NoCertificate,
    /// A section is damaged.
    #[error("its PEM text is damaged: {0}")]
    Damaged(rustls_pki_types::pem::Error),
    /// No private key section, or a damaged one.
    #[error("there is no readable private key in it (PKCS #8, SEC1 or PKCS #1 as PEM): {0}")]
    NoKey(rustls_pki_types::pem::Error),
}

/// All certificates of a PEM text in their order, at least one. Other sections are skipped.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let all = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(PemError::Damaged)?;
    if all.is_empty() {
        Err(PemError::NoCertificate)
    } else {
        Ok(all)
    }
}

/// The first private key of a PEM text.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(text).map_err(PemError::NoKey)
}

/// One certificate as PEM, with a final newline.
#[must_use]
pub fn encode_certificate(der: &[u8]) -> String {
    encode("CERTIFICATE", der)
}

/// A PKCS #8 private key as PEM, with a final newline; wiped when dropped.
#[must_use]
pub fn encode_private_key(pkcs8_der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(encode("PRIVATE KEY", pkcs8_der))
}

fn encode(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    // Room for the whole text from the start: a String that grows leaves copies behind.
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 64);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_back() {
        let ders = [vec![7u8; 1], vec![1; 48], vec![2; 100]];
        let text: String = ders.iter().map(|der| encode_certificate(der)).collect();
        assert!(text.lines().all(|line| line.len() <= 64));
        let back: Vec<Vec<u8>> = certificates(text.as_bytes())
            .unwrap()
            .iter()
            .map(|c| c.to_vec())
            .collect();
        assert_eq!(back, ders);
        assert_eq!(
            private_key(encode_private_key(&[5; 99]).as_bytes())
                .unwrap()
                .secret_der(),
            [5; 99]
        );
    }

    #[test]
    fn a_text_without_the_section_is_refused() {
        assert!(matches!(
            certificates(b"hello"),
            Err(PemError::NoCertificate)
        ));
        assert!(matches!(
            certificates(b"-----BEGIN CERTIFICATE-----\nAAAA"),
            Err(PemError::Damaged(_))
        ));
        assert!(matches!(
            private_key(encode_certificate(&[1]).as_bytes()),
            Err(PemError::NoKey(_))
        ));
    }
}
