//! What `serde` asks for, written as canonical JSON: the serializer of this form and no other, for every record goes through it.

use std::fmt::{self, Write as _};

use serde::ser::{self, Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter as _};

use super::name::Name;
use super::text::{Object, Text};
use super::{MAX_DEPTH, MAX_INTEGER};

/// A value that is no JSON, or is nested too deeply.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the value has no canonical form")]
pub(super) struct Formless;

impl ser::Error for Formless {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

pub(super) type Written = Result<(), Formless>;

/// Writes a value and, if it is an object, among its members those of `head`.
pub(super) fn write<H: Serialize>(
    value: &impl Serialize,
    text: &mut Text,
    head: &[(&'static str, Option<H>)],
) -> Written {
    value.serialize(&mut Pen { text, head, depth: 0 })
}

pub(super) struct Pen<'t, H> {
    text: &'t mut Text,
    /// What of the head is not written yet.
    head: &'t [(&'static str, Option<H>)],
    /// Objects and lists that are open.
    depth: usize,
}

impl<H: Serialize> Pen<'_, H> {
    fn deeper(&mut self) -> Written {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(Formless) } else { Ok(()) }
    }

    fn open(&mut self) -> Result<Object, Formless> {
        self.deeper()?;
        Ok(self.text.open())
    }

    pub(super) fn name(&mut self, object: &mut Object, name: &str) -> Written {
        if self.depth == 1 {
            self.merge(object, |own| own < name)?;
        }
        self.text.name(object, name);
        Ok(())
    }

    /// Writes those members of the head whose turn it is. Their names are ASCII, which as bytes come before all others as UTF-16 does.
    fn merge(&mut self, object: &mut Object, due: impl Fn(&str) -> bool) -> Written {
        while let Some(((name, value), rest)) = self.head.split_first()
            && due(name)
        {
            self.head = rest;
            if let Some(value) = value {
                self.text.name(object, name);
                value.serialize(&mut *self)?;
                self.text.valued();
            }
        }
        Ok(())
    }

    fn member<T: Serialize + ?Sized>(&mut self, object: &mut Object, name: &str, value: &T) -> Written {
        self.name(object, name)?;
        value.serialize(&mut *self)?;
        self.text.valued();
        Ok(())
    }

    /// Ends the object around a variant of an `enum`.
    fn leave(&mut self, around: Option<Object>) -> Written {
        let Some(around) = around else { return Ok(()) };
        self.text.valued();
        self.close(around)
    }

    fn close(&mut self, mut object: Object) -> Written {
        if self.depth == 1 {
            self.merge(&mut object, |_| true)?;
        }
        self.text.close(object);
        self.depth -= 1;
        Ok(())
    }

    fn integer(&mut self, value: i64) -> Written {
        CompactFormatter.write_i64(&mut self.text.bytes, value).map_err(|_| Formless)
    }

    /// A float, as a string.
    fn float(&mut self, write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> Written {
        self.text.push(b'"');
        write(&mut self.text.bytes).map_err(|_| Formless)?;
        self.text.push(b'"');
        Ok(())
    }
}

/// What writes a text that somebody displays, without making it first.
struct Displayed<'p>(&'p mut Text);

impl fmt::Write for Displayed<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0.fragment(part);
        Ok(())
    }
}

/// Methods that write an integer, no further from zero than all readers know it.
macro_rules! integers {
    ($($method:ident: $integer:ty),*) => {$(
        #[inline]
        fn $method(self, value: $integer) -> Written {
            let most = if value < 0 as $integer { -MAX_INTEGER } else { MAX_INTEGER };
            self.integer(i64::try_from(value).map_or(most, |value| value.clamp(-MAX_INTEGER, MAX_INTEGER)))
        }
    )*};
}

impl<'p, 't, H: Serialize> Serializer for &'p mut Pen<'t, H> {
    type Ok = ();
    type Error = Formless;
    type SerializeSeq = List<'p, 't, H>;
    type SerializeTuple = List<'p, 't, H>;
    type SerializeTupleStruct = List<'p, 't, H>;
    type SerializeTupleVariant = List<'p, 't, H>;
    type SerializeMap = Members<'p, 't, H>;
    type SerializeStruct = Members<'p, 't, H>;
    type SerializeStructVariant = Members<'p, 't, H>;

    integers!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128);
    integers!(serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128);

    fn serialize_bool(self, value: bool) -> Written {
        self.text.bytes.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Written {
        if !value.is_finite() {
            return self.serialize_unit();
        }
        self.float(|bytes| CompactFormatter.write_f32(bytes, value))
    }

    fn serialize_f64(self, value: f64) -> Written {
        if !value.is_finite() {
            return self.serialize_unit();
        }
        self.float(|bytes| CompactFormatter.write_f64(bytes, value))
    }

    fn serialize_char(self, value: char) -> Written {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Written {
        self.text.string(value);
        Ok(())
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Written {
        self.text.push(b'"');
        write!(Displayed(self.text), "{value}").map_err(|_| Formless)?;
        self.text.push(b'"');
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Written {
        self.collect_seq(value)
    }

    fn serialize_none(self) -> Written {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Written {
        self.text.bytes.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Written {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Written {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Written {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Written {
        let mut object = self.open()?;
        self.member(&mut object, variant, value)?;
        self.close(object)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'p, 't, H>, Formless> {
        List::open(self, None)
    }

    fn serialize_tuple(self, _: usize) -> Result<List<'p, 't, H>, Formless> {
        List::open(self, None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List<'p, 't, H>, Formless> {
        List::open(self, None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<List<'p, 't, H>, Formless> {
        let mut around = self.open()?;
        self.name(&mut around, variant)?;
        List::open(self, Some(around))
    }

    #[inline]
    fn serialize_map(self, _: Option<usize>) -> Result<Members<'p, 't, H>, Formless> {
        Members::open(self, None)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Members<'p, 't, H>, Formless> {
        Members::open(self, None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Members<'p, 't, H>, Formless> {
        let mut around = self.open()?;
        self.name(&mut around, variant)?;
        Members::open(self, Some(around))
    }
}

/// A list that is being written.
pub(super) struct List<'p, 't, H> {
    pen: &'p mut Pen<'t, H>,
    first: bool,
    /// The object whose one member it is: it names the variant of an `enum`.
    around: Option<Object>,
}

impl<'p, 't, H: Serialize> List<'p, 't, H> {
    fn open(pen: &'p mut Pen<'t, H>, around: Option<Object>) -> Result<Self, Formless> {
        pen.deeper()?;
        pen.text.push(b'[');
        Ok(Self { pen, first: true, around })
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        if !std::mem::take(&mut self.first) {
            self.pen.text.push(b',');
        }
        value.serialize(&mut *self.pen)
    }

    fn close(self) -> Written {
        self.pen.text.push(b']');
        self.pen.depth -= 1;
        self.pen.leave(self.around)
    }
}

/// An object that is being written.
pub(super) struct Members<'p, 't, H> {
    pen: &'p mut Pen<'t, H>,
    object: Object,
    around: Option<Object>,
}

impl<'p, 't, H: Serialize> Members<'p, 't, H> {
    #[inline]
    fn open(pen: &'p mut Pen<'t, H>, around: Option<Object>) -> Result<Self, Formless> {
        let object = pen.open()?;
        Ok(Self { pen, object, around })
    }

    #[inline]
    fn close(self) -> Written {
        self.pen.close(self.object)?;
        self.pen.leave(self.around)
    }
}

/// The traits of what has members one after another.
macro_rules! compound {
    ($($of:ident: $kind:ident $add:ident($($name:ident)?) $value:ident),*) => {$(
        impl<H: Serialize> ser::$kind for $of<'_, '_, H> {
            type Ok = ();
            type Error = Formless;

            #[inline]
            fn $add<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Written {
                self.$value($($name,)? value)
            }

            #[inline]
            fn end(self) -> Written {
                self.close()
            }
        }
    )*};
}

compound!(
    List: SerializeSeq serialize_element() value,
    List: SerializeTuple serialize_element() value,
    List: SerializeTupleStruct serialize_field() value,
    List: SerializeTupleVariant serialize_field() value,
    Members: SerializeStruct serialize_field(name) member,
    Members: SerializeStructVariant serialize_field(name) member
);

impl<H: Serialize> Members<'_, '_, H> {
    #[inline]
    fn member<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Written {
        self.pen.member(&mut self.object, name, value)
    }
}

impl<H: Serialize> ser::SerializeMap for Members<'_, '_, H> {
    type Ok = ();
    type Error = Formless;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Written {
        key.serialize(Name { pen: self.pen, object: &mut self.object })
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Written {
        value.serialize(&mut *self.pen)?;
        self.pen.text.valued();
        Ok(())
    }

    fn end(self) -> Written {
        self.close()
    }
}
