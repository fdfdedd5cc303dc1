//! Where tokens begin and end, one byte at a time.
//!
//! ```text
//!   Start ── quote ──► Text ── same quote ──► token            a number or keyword ends before the first byte
//!     │── a-z ───────► Keyword ┄┄► token before this byte      that cannot go on; that byte is looked at again
//!     │── - 0-9 ─────► Minus, Zero, Integer, Point, … ┄┄► token before this byte
//!     └── other ─────► stray: an error, then Recovery until a line ends or one of {}[]:, comes
//! ```
//! Recovery skips what is left of broken text without one error per byte. A control character is an error even there,
//! so that a client can always bring the parser into a known state (Spec "Forcing the JSON parser into known-good state").

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    OpenBrace,
    CloseBrace,
    OpenBracket,
    CloseBracket,
    Colon,
    Comma,
    Integer,
    Float,
    /// With its quotes, and escapes as they came.
    Text,
    /// Lower-case letters.
    Keyword,
}

/// What to do with a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It belongs to no token.
    Skip,
    /// It belongs to the current token, which goes on.
    Take,
    /// It is the last byte of the current token.
    Last(TokenKind),
    /// The token ended before it; look at it again.
    EndedBefore(TokenKind),
    /// It cannot stand here.
    Stray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Start,
    Recovery,
    Text {
        quote: u8,
        is_escaped: bool,
    },
    Keyword,
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

#[derive(Debug, Default)]
pub(super) struct Lexer(State);

impl Lexer {
    pub(super) fn step(&mut self, byte: u8) -> Verdict {
        let (state, verdict) = next(self.0, byte);
        self.0 = state;
        verdict
    }

    /// Gives up the current token and skips what follows, as after a stray byte.
    pub(super) fn recover(&mut self) {
        self.0 = State::Recovery;
    }

    /// What the end of the input makes of the current token: [`Verdict::Skip`] if there is none.
    pub(super) fn end(&mut self) -> Verdict {
        // A space ends every token that can end here, and nothing else.
        match self.step(b' ') {
            Verdict::Take => Verdict::Stray,
            verdict => verdict,
        }
    }
}

fn next(state: State, byte: u8) -> (State, Verdict) {
    use State as S;
    match (state, byte) {
        (S::Start, _) => start(byte),
        (S::Recovery, b'\n' | b'\r') => (S::Start, Verdict::Skip),
        (S::Recovery, b'{' | b'}' | b'[' | b']' | b':' | b',') => start(byte),
        (S::Recovery, b'\t' | 0x20..=0xfd) => (S::Recovery, Verdict::Skip),
        (S::Text { quote, is_escaped: false }, _) if byte == quote => {
            (S::Start, Verdict::Last(TokenKind::Text))
        }
        (S::Text { quote, is_escaped }, 0x20..=0xfd) => {
            (S::Text { quote, is_escaped: byte == b'\\' && !is_escaped }, Verdict::Take)
        }
        (S::Keyword, b'a'..=b'z') => (S::Keyword, Verdict::Take),
        (S::Keyword, _) => (S::Start, Verdict::EndedBefore(TokenKind::Keyword)),
        (S::Recovery | S::Text { .. }, _) => stray(),
        _ => number(state, byte),
    }
}

fn start(byte: u8) -> (State, Verdict) {
    let single = |kind| (State::Start, Verdict::Last(kind));
    match byte {
        b' ' | b'\t' | b'\r' | b'\n' => (State::Start, Verdict::Skip),
        b'{' => single(TokenKind::OpenBrace),
        b'}' => single(TokenKind::CloseBrace),
        b'[' => single(TokenKind::OpenBracket),
        b']' => single(TokenKind::CloseBracket),
        b':' => single(TokenKind::Colon),
        b',' => single(TokenKind::Comma),
        b'"' | b'\'' => (State::Text { quote: byte, is_escaped: false }, Verdict::Take),
        b'a'..=b'z' => (State::Keyword, Verdict::Take),
        b'-' => (State::Minus, Verdict::Take),
        b'0' => (State::Zero, Verdict::Take),
        b'1'..=b'9' => (State::Integer, Verdict::Take),
        _ => stray(),
    }
}

fn number(state: State, byte: u8) -> (State, Verdict) {
    use State as S;
    let is_digit = byte.is_ascii_digit();
    let (state, kind) = match (state, byte) {
        (S::Minus, b'0') => return (S::Zero, Verdict::Take),
        (S::Minus | S::Integer, _) if is_digit => return (S::Integer, Verdict::Take),
        (S::Point | S::Fraction, _) if is_digit => return (S::Fraction, Verdict::Take),
        (S::Exponent | S::ExponentSign | S::ExponentDigits, _) if is_digit => {
            return (S::ExponentDigits, Verdict::Take);
        }
        (S::Zero | S::Integer, b'.') => return (S::Point, Verdict::Take),
        (S::Integer | S::Fraction, b'e' | b'E') => return (S::Exponent, Verdict::Take),
        (S::Exponent, b'+' | b'-') => return (S::ExponentSign, Verdict::Take),
        (S::Zero, _) if is_digit => return stray(),
        (S::Zero | S::Integer, _) => (S::Start, TokenKind::Integer),
        (S::Fraction | S::ExponentDigits, _) => (S::Start, TokenKind::Float),
        _ => return stray(),
    };
    (state, Verdict::EndedBefore(kind))
}

const fn stray() -> (State, Verdict) {
    (State::Recovery, Verdict::Stray)
}
