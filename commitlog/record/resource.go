package record

import "strings"

// Resource names a topic or a consumer group. Namespaces isolate: the same name
// in two namespaces is two resources, and an absent namespace is "".
type Resource struct {
	Namespace string
	Name      string
}

func (r Resource) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "%" + r.Name
}

// Label is r in one string that no other resource has: namespace%name, as RocketMQ has
// it. A name without a namespace that would read as one with is ~a%orders, and a % in a
// namespace %~: names have no tilde, so of those with a namespace the first % that none
// follows ends it.
func (r Resource) Label() string {
	switch {
	case r.Namespace != "":
		return strings.ReplaceAll(r.Namespace, "%", "%~") + "%" + r.Name
	case strings.IndexByte(r.Name, '%') > 0: // %DLQ%group reads as what it is
		return "~" + r.Name
	}
	return r.Name
}

// AppendResource appends r to a command.
func AppendResource(dst []byte, r Resource) []byte {
	return AppendString(AppendString(dst, r.Namespace), r.Name)
}

// Resource reads what AppendResource wrote.
func (d *Decoder) Resource() Resource {
	return Resource{Namespace: d.String(), Name: d.String()}
}
