//! Component types in the words of WIT, to say what a component has and what it should have.

use std::fmt::Write;

use wasmtime::component::types::{ComponentFunc, Type};

/// A type that is longer than this when written out is cut: no one reads it, and a hostile one is huge.
const TEXT_BYTES_MAX: usize = 2_048;

/// A function with all its types written out. Names of parameters are left out: they are no part of how
/// it is called.
pub(super) fn describe(function: &ComponentFunc) -> String {
    let mut text = Text(String::new());
    text.push(if function.async_() { "async func" } else { "func" });
    text.list("(", ")", function.params(), |text, (_, ty)| text.ty(&ty));
    for (index, result) in function.results().enumerate() {
        text.push(if index == 0 { " -> " } else { ", " });
        text.ty(&result);
    }
    if text.full() {
        text.0.truncate(text.0.floor_char_boundary(TEXT_BYTES_MAX));
        text.0.push_str(" ...");
    }
    text.0
}

struct Text(String);

impl Text {
    fn full(&self) -> bool {
        self.0.len() > TEXT_BYTES_MAX
    }

    fn push(&mut self, text: &str) {
        self.0.push_str(text);
    }

    fn list<T>(&mut self, open: &str, close: &str, items: impl Iterator<Item = T>, write: impl Fn(&mut Self, T)) {
        self.push(open);
        for (index, item) in items.enumerate() {
            // Types may share their parts, so that written out they are larger than the file they came from.
            if self.full() {
                return;
            }
            if index > 0 {
                self.push(", ");
            }
            write(self, item);
        }
        self.push(close);
    }

    fn of_one(&mut self, name: &str, ty: &Type) {
        self.push(name);
        self.push("<");
        self.ty(ty);
        self.push(">");
    }

    fn ty(&mut self, ty: &Type) {
        let plain = match ty {
            Type::Bool => "bool",
            Type::S8 => "s8",
            Type::U8 => "u8",
            Type::S16 => "s16",
            Type::U16 => "u16",
            Type::S32 => "s32",
            Type::U32 => "u32",
            Type::S64 => "s64",
            Type::U64 => "u64",
            Type::Float32 => "f32",
            Type::Float64 => "f64",
            Type::Char => "char",
            Type::String => "string",
            Type::Own(_) => "resource",
            Type::Borrow(_) => "borrow<resource>",
            Type::Future(_) => "future",
            Type::Stream(_) => "stream",
            Type::ErrorContext => "error-context",
            Type::List(list) => return self.of_one("list", &list.ty()),
            Type::Option(option) => return self.of_one("option", &option.ty()),
            Type::Map(map) => {
                return self.list("map<", ">", [map.key(), map.value()].into_iter(), |text, ty| text.ty(&ty));
            }
            Type::FixedLengthList(list) => {
                self.of_one("list", &list.ty());
                let _ = write!(self.0, "[{}]", list.len());
                return;
            }
            Type::Record(record) => {
                return self.list("record { ", " }", record.fields(), |text, field| {
                    text.push(field.name);
                    text.push(": ");
                    text.ty(&field.ty);
                });
            }
            Type::Tuple(tuple) => return self.list("tuple<", ">", tuple.types(), |text, ty| text.ty(&ty)),
            Type::Variant(variant) => {
                return self.list("variant { ", " }", variant.cases(), |text, case| {
                    text.push(case.name);
                    if let Some(ty) = &case.ty {
                        text.list("(", ")", [ty].into_iter(), |text, ty| text.ty(ty));
                    }
                });
            }
            Type::Enum(names) => return self.list("enum { ", " }", names.names(), Self::push),
            Type::Flags(names) => return self.list("flags { ", " }", names.names(), Self::push),
            Type::Result(result) => {
                return self.list("result<", ">", [result.ok(), result.err()].into_iter(), |text, ty| match ty {
                    Some(ty) => text.ty(&ty),
                    None => text.push("_"),
                });
            }
        };
        self.push(plain);
    }
}
