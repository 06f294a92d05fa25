//! The names of the members of a map. In JSON they are texts; what has one text, as a number has, is named by it.

use serde::ser::{Impossible, Serialize, Serializer};

use super::pen::{Formless, Pen, Written};
use super::text::Object;

/// The name of a member of a map: a text, or what has one.
pub(super) struct Name<'n, 't, H> {
    pub(super) pen: &'n mut Pen<'t, H>,
    pub(super) object: &'n mut Object,
}

/// Methods of values that are no name.
macro_rules! nameless {
    ($($method:ident($($argument:ty),*) $(<$generic:ident>)? -> $result:ty),* $(,)?) => {$(
        fn $method$(<$generic: Serialize + ?Sized>)?(self, $(_: $argument),*) -> Result<$result, Formless> {
            Err(Formless)
        }
    )*};
}

/// Methods of values whose text is a name.
macro_rules! named {
    ($($method:ident: $kind:ty),*) => {$(
        fn $method(self, value: $kind) -> Written {
            self.serialize_str(&value.to_string())
        }
    )*};
}

impl<H: Serialize> Serializer for Name<'_, '_, H> {
    type Ok = ();
    type Error = Formless;
    type SerializeSeq = Impossible<(), Formless>;
    type SerializeTuple = Impossible<(), Formless>;
    type SerializeTupleStruct = Impossible<(), Formless>;
    type SerializeTupleVariant = Impossible<(), Formless>;
    type SerializeMap = Impossible<(), Formless>;
    type SerializeStruct = Impossible<(), Formless>;
    type SerializeStructVariant = Impossible<(), Formless>;

    fn serialize_str(self, name: &str) -> Written {
        self.pen.name(self.object, name)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Written {
        value.serialize(self)
    }

    named!(
        serialize_bool: bool, serialize_char: char,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128
    );
    nameless!(
        serialize_f32(f32) -> (),
        serialize_f64(f64) -> (),
        serialize_bytes(&[u8]) -> (),
        serialize_none() -> (),
        serialize_some(&T) <T> -> (),
        serialize_unit() -> (),
        serialize_unit_struct(&'static str) -> (),
        serialize_newtype_variant(&'static str, u32, &'static str, &T) <T> -> (),
        serialize_seq(Option<usize>) -> Self::SerializeSeq,
        serialize_tuple(usize) -> Self::SerializeTuple,
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant,
        serialize_map(Option<usize>) -> Self::SerializeMap,
        serialize_struct(&'static str, usize) -> Self::SerializeStruct,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant,
    );
}
