/*-------------------------------------------------------------------------
 *
 * args.c
 *	  Arguments and results of the SQL functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/objectaddress.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "flow/flow.h"

/*
 * Is an argument SQL NULL, or a parameter that the function was not declared
 * with?  The library may be newer than the extension's objects, until somebody
 * runs ALTER EXTENSION ... UPDATE, and its functions work until then: a parameter
 * that came later is last, and has its default if it is NULL.
 */
bool
etl_arg_is_null(FunctionCallInfo fcinfo, int arg)
{
	return arg >= PG_NARGS() || PG_ARGISNULL(arg);
}

/* A text argument as a C string, NULL for SQL NULL. */
char *
etl_arg_text(FunctionCallInfo fcinfo, int arg)
{
	if (etl_arg_is_null(fcinfo, arg))
		return NULL;
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/* A name argument as a C string, NULL for SQL NULL. */
char *
etl_arg_name(FunctionCallInfo fcinfo, int arg)
{
	if (etl_arg_is_null(fcinfo, arg))
		return NULL;
	return pstrdup(NameStr(*PG_GETARG_NAME(arg)));
}

/* A boolean argument; SQL NULL is false. */
bool
etl_arg_bool(FunctionCallInfo fcinfo, int arg)
{
	return !etl_arg_is_null(fcinfo, arg) && PG_GETARG_BOOL(arg);
}

/* Throw if an argument is SQL NULL. */
void
etl_refuse_null(FunctionCallInfo fcinfo, int arg, const char *parameter)
{
	if (etl_arg_is_null(fcinfo, arg))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("parameter \"%s\" must not be null", parameter)));
}

/* Throw if a number that counts something is negative. */
void
etl_refuse_negative(double value, const char *parameter)
{
	if (value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must not be negative", parameter)));
}

/* The elements of an array argument as C strings. */
static List *
arg_strings(FunctionCallInfo fcinfo, int arg, Oid element_type, int16 typlen,
			bool typbyval, char typalign)
{
	List *strings = NIL;
	Datum *elements;
	bool *nulls;
	int nelements;

	if (etl_arg_is_null(fcinfo, arg))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), element_type, typlen,
					  typbyval, typalign, &elements, &nulls, &nelements);
	for (int i = 0; i < nelements; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("array argument must not contain nulls"),
					 errhint(
						 "An element that is the word NULL is quoted: '{\"NULL\"}'.")));
		strings = lappend(strings,
						  element_type == NAMEOID ?
							  pstrdup(NameStr(*DatumGetName(elements[i]))) :
							  TextDatumGetCString(elements[i]));
	}
	return strings;
}

/* A name[] argument as a list of C strings, NIL for SQL NULL. */
List *
etl_arg_names(FunctionCallInfo fcinfo, int arg)
{
	return arg_strings(fcinfo, arg, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR);
}

/* A text[] argument as a list of C strings, NIL for SQL NULL. */
List *
etl_arg_texts(FunctionCallInfo fcinfo, int arg)
{
	return arg_strings(fcinfo, arg, TEXTOID, -1, false, TYPALIGN_INT);
}

/*
 * An argument that is a JSON object of names, {"from": "to", ...}, as two lists
 * of C strings; both are NIL for SQL NULL.
 */
void
etl_names_of_object(Jsonb *object, const char *parameter, List **from, List **to)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue value;
	char *name = NULL;

	*from = *to = NIL;
	if (object == NULL)
		return;
	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("parameter \"%s\" must be a JSON object", parameter),
				 errhint("For example {\"city\": \"%s_city\"}.", parameter)));
	iterator = JsonbIteratorInit(&object->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE)
			continue;
		if (value.type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("parameter \"%s\" must map column \"%s\" to the name of a column",
							parameter, name)));
		*from = lappend(*from, name);
		*to = lappend(*to, pnstrdup(value.val.string.val, value.val.string.len));
	}
}

/* The row type that a function returns through its OUT parameters. */
TupleDesc
etl_result_desc(FunctionCallInfo fcinfo)
{
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return BlessTupleDesc(desc);
}

/*
 * Only who may read something of a table gets as far as to lock it and to be
 * told of its columns.  Relations that hold no rows are refused here, too.
 */
void
etl_check_select_privilege(Oid relid)
{
	char relkind = get_rel_relkind(relid);

	switch (relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_FOREIGN_TABLE:
		case RELKIND_VIEW:
		case RELKIND_MATVIEW:
			break;
		case '\0':
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", relid)));
			break;
		default:
			ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
							errmsg("\"%s\" is not a table or view",
								   get_rel_name(relid))));
	}
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT,
								  ACLMASK_ANY) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(relkind),
					   get_rel_name(relid));
}

/*
 * Only roles that may read the server's files may name one; removing and
 * moving them takes the right to write files too.
 */
void
etl_check_file_privilege(bool write)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read files of the server"),
				 errdetail("Only roles with privileges of the \"%s\" role may load files.",
						   "pg_read_server_files"),
				 errhint("Grant it with GRANT pg_read_server_files TO %s.",
						 quote_identifier(
							 GetUserNameFromId(GetUserId(), false)))));
	if (write && !has_privs_of_role(GetUserId(), ROLE_PG_WRITE_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg(
					 "permission denied to remove or move files of the server"),
				 errdetail("Only roles with privileges of the \"%s\" role may do so.",
						   "pg_write_server_files"),
				 errhint("Use after_load => 'keep', or grant the role.")));
}
