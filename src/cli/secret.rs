//! Passwords on their way in: from stdin or the environment, never an argument.

use std::io::{BufRead, Read};

use super::Failure;

/// The longest password that is read, in bytes.
const PASSWORD_MAX_BYTES: u64 = 1_024;

/// The first line of stdin.
pub fn password_from_stdin() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(PASSWORD_MAX_BYTES + 2)
        .read_line(&mut line)
        .map_err(|error| Failure::Failed(format!("the password cannot be read from stdin: {error}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    match password.len() as u64 {
        0 => Err(Failure::Usage("stdin has no password in its first line".into())),
        length if length > PASSWORD_MAX_BYTES => Err(Failure::Usage(format!(
            "the password on stdin has more than {PASSWORD_MAX_BYTES} bytes"
        ))),
        _ => Ok(password.to_owned()),
    }
}

/// A password of 128 bits from the system's randomness, in 26 characters that survive being read aloud.
pub fn generate_password() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::Failed("the system has no randomness for a password".into()))?;
    Ok(data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// A number in 0..`below` (0 when there is none below), from the system's randomness: for jitter and choices.
pub fn random_below(below: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without randomness there is no jitter, which is no reason to stop.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_le_bytes(bytes).checked_rem(below).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn generated_passwords_have_128_bits_and_differ() {
        let (one, other) = (super::generate_password().unwrap(), super::generate_password().unwrap());
        assert_eq!(one.len(), 26);
        assert_ne!(one, other);
    }
}
