//! Closed sets of words: one enum, one schema, one reader that forgives letter case.

use std::fmt::Display;
use std::str::FromStr;

use schemars::{Schema, json_schema};
use serde::{Deserialize, Deserializer, de};

/// How the API server checks a set of words.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    /// `enum`: the words exactly.
    Exact,
    /// `pattern`: the words in any letter case, or empty for "not set" (Calico's form for settings).
    AnyCase,
}

/// Schema of a closed set of words.
pub(crate) fn text_schema(form: Form, words: &[&str]) -> Schema {
    match form {
        Form::Exact => json_schema!({ "type": "string", "enum": words }),
        Form::AnyCase => {
            json_schema!({ "type": "string", "pattern": format!("^(?i)({})?$", words.join("|")) })
        }
    }
}

/// Reads an optional word, taking the empty text for "not set".
pub(crate) fn empty_is_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(de::Error::custom),
    }
}

/// Declares an enum over fixed words: `as_str`, `Display`, `FromStr` (any letter case), serde and the schema.
macro_rules! text_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident: $form:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant),+
        }

        impl $name {
            const WORDS: &'static [&'static str] = &[$($text),+];

            /// The word users write.
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $(if text.eq_ignore_ascii_case($text) {
                    return Ok(Self::$variant);
                })+
                Err(format!("{text:?} is not one of {}", Self::WORDS.join(", ")))
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <::std::borrow::Cow<'de, str> as ::serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(::serde::de::Error::custom)
            }
        }

        impl ::schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                $crate::scalar::text_schema($crate::scalar::Form::$form, Self::WORDS)
            }
        }
    };
}
pub(crate) use text_enum;
