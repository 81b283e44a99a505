/*-------------------------------------------------------------------------
 *
 * convert_json.c
 *	  json and jsonb.
 *
 * The server's parser tells what is wrong with a text by a return value, but
 * throws when the text nests too deeply or holds an escape that the server's
 * encoding lacks; and jsonb's input throws for numbers and strings that it
 * cannot hold.  A look at the text rules all of that out: what remains parses
 * without throwing, or is not JSON.  See convert.c for the contract.
 *
 *-------------------------------------------------------------------------
 */
#include "source/convert_types.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

/* Far below what the stack of any server can bear. */
#define MAX_NESTING 64

/* A number that is no longer than this fits numeric. */
#define MAX_JSONB_LEN 16000

/*
 * Can the text be parsed without throwing?  Brackets inside strings count
 * too, which errs on the safe side.
 */
static bool
parses_quietly(const EtlField *field)
{
	int depth = 0;

	for (int i = 0; i < field->len; i++)
	{
		char c = field->data[i];

		if (c == '\\' && field->data[i + 1] == 'u')
			return false;
		if ((c == '[' || c == '{') && ++depth > MAX_NESTING)
			return false;
	}
	return true;
}

/* Could a number have an exponent?  An "e" after a digit says so. */
static bool
may_have_exponent(const EtlField *field)
{
	for (int i = 1; i < field->len; i++)
		if ((field->data[i] == 'e' || field->data[i] == 'E') &&
			isdigit((unsigned char) field->data[i - 1]))
			return true;
	return false;
}

static bool
is_json(const EtlField *field)
{
	JsonLexContext *lex = etl_make_json_lexer(field->data, field->len,
											  GetDatabaseEncoding());

	return pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;
}

bool
etl_convert_json(const EtlColumnConverter *column, const EtlField *field,
				 Datum *value)
{
	return parses_quietly(field) && is_json(field) &&
		   etl_convert_text(column, field, value);
}

bool
etl_convert_jsonb(const EtlColumnConverter *column pg_attribute_unused(),
				  const EtlField *field, Datum *value)
{
	if (field->len > MAX_JSONB_LEN || may_have_exponent(field) ||
		!parses_quietly(field) || !is_json(field))
		return false;
	*value = DirectFunctionCall1(jsonb_in, CStringGetDatum(field->data));
	return true;
}
