// Package dump writes protobuf descriptors as text that can be compared line by
// line: one line per element, each with everything that is visible on the wire
// or in generated code, sorted.
package dump

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Package writes all that this binary has registered under a protobuf package.
// The package's own name is left out of the lines.
func Package(w io.Writer, name protoreflect.FullName) error {
	var lines lines
	protoregistry.GlobalFiles.RangeFilesByPackage(name, func(fd protoreflect.FileDescriptor) bool {
		lines.file(fd)
		return true
	})
	if len(lines) == 0 {
		return fmt.Errorf("nothing is registered in package %s", name)
	}
	slices.Sort(lines)
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, strings.ReplaceAll(line, string(name)+".", "")); err != nil {
			return err
		}
	}
	return nil
}

type lines []string

func (l *lines) add(format string, args ...any) { *l = append(*l, fmt.Sprintf(format, args...)) }

func (l *lines) file(fd protoreflect.FileDescriptor) {
	l.add("file %s %s", fd.Path(), fd.Syntax())
	l.enums(fd.Enums())
	l.messages(fd.Messages())
	for i := range fd.Services().Len() {
		service := fd.Services().Get(i)
		l.add("service %s in %s", service.FullName(), fd.Path())
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			l.add("method %s (%s%s) returns (%s%s)", m.FullName(),
				stream(m.IsStreamingClient()), m.Input().FullName(), stream(m.IsStreamingServer()), m.Output().FullName())
		}
	}
}

func stream(yes bool) string {
	if yes {
		return "stream "
	}
	return ""
}

func (l *lines) enums(enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		enum := enums.Get(i)
		l.add("enum %s in %s", enum.FullName(), enum.ParentFile().Path())
		for j := range enum.Values().Len() {
			v := enum.Values().Get(j)
			l.add("value %s.%s = %d", enum.FullName(), v.Name(), v.Number())
		}
	}
}

func (l *lines) messages(messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		m := messages.Get(i)
		if m.IsMapEntry() {
			continue // its field's type tells it all
		}
		l.add("message %s in %s", m.FullName(), m.ParentFile().Path())
		for j := range m.Fields().Len() {
			f := m.Fields().Get(j)
			l.add("field %s = %d %s%s%s", f.FullName(), f.Number(), label(f), typeName(f), oneof(f))
		}
		l.enums(m.Enums())
		l.messages(m.Messages())
	}
}

func label(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsPacked():
		return "repeated packed "
	case f.IsList():
		return "repeated "
	case f.HasOptionalKeyword():
		return "optional "
	}
	return ""
}

func typeName(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return fmt.Sprintf("map<%s, %s>", typeName(f.MapKey()), typeName(f.MapValue()))
	case f.Message() != nil:
		return string(f.Message().FullName())
	case f.Enum() != nil:
		return string(f.Enum().FullName())
	}
	return f.Kind().String()
}

func oneof(f protoreflect.FieldDescriptor) string {
	if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
		return fmt.Sprintf(" oneof %s", o.Name())
	}
	return ""
}
